"""Reports on runs whose evaluations are written by hand, and what is said where there is none."""

import csv
import html.parser
import json
import re

import numpy as np
import pytest
from folders import VocFolder
from training.small import small_config

from rpn_jax.__main__ import main
from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.evaluation.objects import concatenate, image_objects
from rpn_jax.evaluation.precision import ImageDetections, PrecisionMeasurement
from rpn_jax.evaluation.recall import ImageProposals, RecallSums, image_recall
from rpn_jax.files import write_npz, write_text
from rpn_jax.reports.comparison import compute_figures
from rpn_jax.reports.report import write_report
from rpn_jax.reports.results import gather
from rpn_jax.reports.single_run import choose_images, picture_section
from rpn_jax.runs.config_files import to_json
from rpn_jax.text import printable

STEPS = 40
TOP_NS = (10, 300)
STARTED = {
    "command": ["rpn-jax", "train", "--config=small.py", "--config.data.source=A FOLDER"],
    "step": 0,
    "code": {"commit": "c0ffee", "local_changes": None, "source": "abc"},
    "packages": {"jax": "0.10.2"},
    "data": {"train": {"dataset": "voc_folder", "split": "train", "images": 5, "objects": 7}},
    "weights": None,
    "machine": {"devices": {"cpu": 1}, "host": "here"},
    "environment": {},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A prepared dataset: five images with six objects and a difficult one."""
    root = tmp_path_factory.mktemp("data")
    folder = VocFolder(root / "voc").root
    prepare_dataset("voc_folder", data_dir=root / "prepared", source=folder)
    return folder, root / "prepared"


@pytest.fixture(scope="module")
def dataset(source):
    return open_dataset("voc_folder", "train", data_dir=source[1], source=source[0])


def proposals(record, share):
    """Proposals that cover that share of each object, and of the difficult one; or no object."""
    if share is None:
        nothing = np.zeros(0, np.float32)
        no_boxes = nothing.reshape(0, 4)
        return ImageProposals(
            record.image_id, no_boxes, nothing, no_boxes, np.zeros(0, bool), nothing
        )
    boxes = record.boxes.copy()
    boxes[:, 2] -= (1 - share) * (boxes[:, 2] - boxes[:, 0])
    scores = np.linspace(0.9, 0.1, len(boxes)).astype(np.float32)
    return ImageProposals(record.image_id, boxes, scores, record.boxes, record.ignore, record.areas)


def of_detections(images, records, class_names):
    measurement = PrecisionMeasurement(class_names)
    for image, record in zip(images, records, strict=True):
        objects = len(image.gt_boxes)
        labels = (record.labels + np.arange(len(record.labels)) % 2) % len(class_names)
        measurement.add(
            ImageDetections(
                *image[:3],
                labels[: len(image.boxes)],
                image.gt_boxes,
                record.labels[:objects],
                *image[4:],
            )
        )
    return measurement.result()


def evaluated(folder, dataset, share, step=STEPS, name="train", without=(), detects=False):
    """What `evaluate` would leave of a network whose proposals cover a share of every object.

    With `detects`, its detections are these proposals, half of them of the other class.
    """
    records = [dataset[i] for i in range(len(dataset))]
    images = [proposals(record, share) for record in records]
    sums = sum((image_recall(image, TOP_NS) for image in images), RecallSums.empty(TOP_NS))
    ranks = concatenate(
        [
            image_objects(i, image, record.labels[: len(image.gt_boxes)], max(TOP_NS))
            for i, (image, record) in enumerate(zip(images, records, strict=True))
        ]
    )
    figures = {"dataset": "voc_folder", "split": "train", "without": without, "step": step}
    figures |= {"seconds": 2.5, **sums.result().figures().to_json()}
    if detects:
        measured = of_detections(images, records, dataset.class_names)
        write_npz(folder / "evaluation" / name / "detections.npz", **measured.arrays)
        precise = measured.to_json()
        proposed = {f"proposals {name}": value for name, value in figures["scalars"].items()}
        figures |= precise | {"scalars": {**precise["scalars"], **proposed}}
    place = folder / "evaluation" / name
    write_npz(place / "objects.npz", **ranks._asdict(), class_names=np.array(dataset.class_names))
    write_text(place / "figures.json", json.dumps(figures))


def begun(folder, source, *overrides, last=STEPS):
    """A run that has logged its steps up to `last`."""
    config = small_config(
        "--config.data.dataset=voc_folder",
        f"--config.data.source={source[0]}",
        f"--config.data.data_dir={source[1]}",
        "--config.data.eval_split=train",
        f"--config.steps={STEPS}",
        *overrides,
    )
    write_text(folder / "config.json", to_json(config))
    write_text(folder / "runs.jsonl", json.dumps(STARTED) + "\n")
    rows = []
    for step in range(10, last + 1, 10):
        rows.append({"step": step, "train/loss": 1 / step, "train/seconds": float(step)})
        rows[-1] |= {"train/images_per_second": 4.0, "train/peak_memory_bytes": 3 * 2**29}
        rows.append({"step": step, "validation/loss": 0.5, "validation/AR@10": step / 100})
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def a_sweep(out, source, dataset, shares, seeds=2):
    """A sweep over lambda, each setting's proposals covering a share; those of None have failed."""
    runs = []
    for balance, share in shares.items():
        for seed in range(seeds):
            setting = f"rpn.loss.balance={balance}"
            folder = out / f"{setting},seed={seed}"
            overrides = {"rpn.loss.balance": float(balance), "seed": seed}
            runs.append({"folder": folder.name, "setting": setting, "overrides": overrides})
            fields = [f"--config.{field}={value}" for field, value in overrides.items()]
            begun(folder, source, *fields, last=0 if share is None else STEPS)
            if share is not None:
                evaluated(folder, dataset, share)
            else:
                end = {"state": "failed", "reason": f"no <luck> | with seed {seed}"}
                write_text(out / "state" / folder.name / "end.json", json.dumps(end))
    overrides = {"rpn.loss.balance": 9.0, "seed": 0}
    runs.append({"folder": "rpn.loss.balance=9,seed=0", "setting": "rpn.loss.balance=9"})
    runs[-1]["overrides"] = overrides
    facts = {"config": "small.py", "fixed": {}, "given": [], "fields": ["rpn.loss.balance", "seed"]}
    facts |= {"seed_field": "seed", "base": runs[0]["folder"], "runs": runs}
    write_text(out / "sweep.json", json.dumps(facts))
    return out


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, source, dataset):
    """The report on a sweep with failed runs and one that was never begun."""
    out = tmp_path_factory.mktemp("sweep")
    a_sweep(out, source, dataset, {"1": 0.72, "10": 0.92, "100": None})
    printed = write_report([out])
    return out, printed


@pytest.fixture(scope="module")
def alone(tmp_path_factory, source, dataset):
    """The report on a run that misses all objects at IoU 0.75, with an ablation."""
    folder = begun(tmp_path_factory.mktemp("runs") / "alone", source)
    evaluated(folder, dataset, 0.72)
    evaluated(folder, dataset, 0.3, name="train-without-nms", without=("nms",))
    write_report([folder])
    return folder


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order and takes note of tables, pictures and links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.images, self.tags, self.ids = [], [], [], set(), []
        self.links = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        if tag not in ("meta", "link", "img", "br", "wbr"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "img":
            assert attributes["alt"]
            self.images.append(attributes["src"])
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if "href" in attributes:
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.mark.parametrize("which", ["sweep", "alone"])
def test_the_page_needs_nothing_else(which, request):
    folder = request.getfixturevalue(which)
    folder = folder[0] if which == "sweep" else folder
    text = (folder / "report/report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert page.images
    assert all(image.startswith("data:image/") for image in page.images)
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= {"data:,", *page.ids}
    assert len(text) < 5e6
    # Beside it the same as Markdown, whose pictures exist.
    markdown = (folder / "report/report.md").read_text()
    files = re.findall(r"^!\[.+\]\((.+)\)$", markdown, re.MULTILINE)
    assert len(files) == len(page.images)
    assert all((folder / "report" / file).is_file() for file in files)
    for heading in re.findall(r"^## (.+)$", markdown, re.MULTILINE):
        assert f"<h2>{heading}</h2>" in text


@pytest.mark.parametrize("which", ["sweep", "alone"])
def test_a_picture_comes_before_long_tables(which, request):
    folder = request.getfixturevalue(which)
    folder = folder[0] if which == "sweep" else folder
    before = (folder / "report/report.html").read_text().partition("<img")[0]
    assert before.count("<tr>") <= (0 if which == "sweep" else 10)


def test_every_command_is_shown_whole_and_chosen_at_once(alone):
    text = (alone / "report/report.html").read_text()
    (style,) = re.findall("^pre code { (.*) }$", text, re.MULTILINE)
    assert "white-space: pre-wrap" in style
    assert "user-select: all" in style
    commands = re.findall("<code>(.*)</code>", text)
    assert commands[0] == "git checkout c0ffee"
    assert commands[1].startswith("python -m rpn_jax train --config=small.py")


def rows_of(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_the_table_of_a_sweep(sweep):
    out, printed = sweep
    # 0.72 of an object reaches the thresholds 0.5 to 0.7, 5 of 10; 0.92 reaches 9.
    markdown = (out / "report/report.md").read_text()
    assert "| rpn.loss.balance | runs | AR@100 | AR@300 | recall@0.5 | recall@0.7 |" in markdown
    assert "| 1 (base) | 2 of 2 | 50.0 ± 0.0 | 50.0 ± 0.0 | 100.0 ± 0.0 | 100.0 ± 0.0 |" in markdown
    assert "| 10 | 2 of 2 | **90.0 ± 0.0** | **90.0 ± 0.0** | 100.0 ± 0.0 |" in markdown
    assert "| 100 | 0 of 2 | – | – | – | – |" in markdown
    assert "| 10 | 2 | **+40.0<br>+40.0 to +40.0<br>p &lt; 0.001** | **+40.0" in markdown
    assert re.search("^10 +2 of 2  90.0 ± 0.0", printed, re.MULTILINE)
    one, ten = rows_of(out / "report/settings.csv")
    assert (one["rpn.loss.balance"], one["runs"], one["AR@300"]) == ("1.0", "2", "0.500000")
    assert one["AR@300 p"] == ""
    assert (ten["AR@300 difference"], ten["AR@300 low"]) == ("0.400000", "0.400000")
    assert ten["recall@0.5 p"] == "1.000000"


def test_runs_that_do_not_count_are_listed_with_the_reason(sweep):
    out, _ = sweep
    page = Page((out / "report/report.html").read_text())
    place = page.cells.index("rpn.loss.balance=100,seed=1", page.cells.index("why"))
    assert page.cells[place + 1] == "failed before a step was logged: no <luck> | with seed 1"
    assert page.cells[page.cells.index("rpn.loss.balance=9,seed=0", place) + 1] == "not begun"
    markdown = (out / "report/report.md").read_text()
    assert "no &lt;luck&gt; \\| with seed 1 |" in markdown
    assert "7 runs of 4 settings: 4 counted, 2 failed, 1 not begun." in markdown
    runs = rows_of(out / "report/runs.csv")
    assert [run["state"] for run in runs] == 4 * ["done"] + 2 * ["failed"] + ["missing"]
    assert (runs[0]["training seconds"], runs[0]["evaluation seconds"]) == ("40.0", "2.5")
    assert (runs[4]["AR@300"], runs[0]["AR@300"]) == ("", "0.500000")


def test_the_same_runs_give_the_same_bytes(sweep, tmp_path):
    out, _ = sweep
    write_report([out], tmp_path)
    ours = {p.relative_to(out / "report"): p for p in (out / "report").rglob("*") if p.is_file()}
    theirs = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert ours.keys() == theirs
    for name, path in ours.items():
        assert path.read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_run_alone(alone):
    markdown = (alone / "report/report.md").read_text()
    page = Page((alone / "report/report.html").read_text())
    assert "| AR@300 | 50.0 | 50.0 to 50.0 |" in markdown
    assert "Measured after step 40 of 40 on voc\\_folder train" in markdown
    # By class, size and aspect ratio: five cats, of which one is difficult, and two dogs.
    place = page.cells.index("dog")
    assert page.cells[place : place + 3] == ["dog", "2", "50.0"]
    assert "1:1.4-1.4:1" in page.cells
    # The ablation beside the paper's.
    place = page.cells.index("without NMS")
    assert page.cells[place + 1 : place + 6] == [*4 * ["0.0"], "55.2 of 6000"]
    # What it is made of, and the command.
    assert "git checkout c0ffee\npython -m rpn_jax train --config=small.py" in markdown
    assert "'--config.data.source=A FOLDER'" in markdown
    assert "| machine.host | here |" in markdown


@pytest.fixture(scope="module")
def detector(tmp_path_factory, source, dataset):
    """The report on a run that also detects, each first object of an image as its class."""
    folder = begun(tmp_path_factory.mktemp("runs") / "detector", source)
    evaluated(folder, dataset, 0.72, detects=True)
    write_report([folder])
    return folder


def test_a_run_that_detects(detector):
    page = Page((detector / "report/report.html").read_text())
    markdown = (detector / "report/report.md").read_text()
    figures = json.loads((detector / "evaluation/train/figures.json").read_text())
    assert figures["headline"] == "AP"
    # Beside the recall of its proposals, which is that of the run alone.
    ap, ap50 = (f"{100 * figures['scalars'][name]:.1f}" for name in ("AP", "AP50"))
    assert f"| AP | {ap} | " in markdown
    low, high = re.search(r"\| AP \| [\d.]+ \| ([\d.]+) to ([\d.]+) \|", markdown).groups()
    assert float(low) <= float(ap) < float(high)
    assert "| AR@300 | 50.0 | 50.0 to 50.0 |" in markdown
    assert f"| AP50 | {ap50} |" in markdown
    assert "![Precision of detections: " in markdown
    # By error: those of the other class cost something, the boxes nothing.
    place = page.cells.index("class", page.cells.index("VOC12"))
    header, parts = page.cells[place : place + 6], page.cells[place + 6 : place + 12]
    assert header == ["class", "box", "both", "duplicate", "background", "missed"]
    assert float(parts[0]) > 0
    assert parts[1] == "+0.0"
    # By class.
    dog = next(row for row in figures["classes"] if row["name"] == "dog")
    assert (
        f"| dog | {dog['objects']} | {100 * dog['AP']:.1f} | {100 * dog['AP50']:.1f} |" in markdown
    )


def test_runs_that_detect(source, dataset, tmp_path):
    for number, share in enumerate((0.72, 0.92)):
        fields = [f"--config.rpn.loss.balance={number + 1}.0"]
        for seed in range(2):
            folder = begun(tmp_path / f"{number}{seed}", source, *fields, f"--config.seed={seed}")
            evaluated(folder, dataset, share, detects=True)
    write_report([tmp_path], tmp_path / "report")
    markdown = (tmp_path / "report/report.md").read_text()
    assert "| runs | AP | AP50 | AP75 | AR@100 |" in markdown
    assert "![AP of each setting: the mean, and its runs]" in markdown
    assert "![Precision at IoU 0.5: Precision (%) to Recall (%)]" in markdown
    assert "| rpn.loss.balance | class | box | both | duplicate | background | missed |" in markdown
    one, two = rows_of(tmp_path / "report/settings.csv")
    assert float(two["AP difference"]) == pytest.approx(float(two["AP"]) - float(one["AP"]))
    assert float(two["AP low"]) <= float(two["AP difference"]) < float(two["AP high"])
    assert 0 < float(two["AP p"]) < 0.1
    assert "nan" not in markdown
    # Without the matches of one there is no interval.
    (tmp_path / "00/evaluation/train/detections.npz").unlink()
    write_report([tmp_path], tmp_path / "report")
    one, two = rows_of(tmp_path / "report/settings.csv")
    assert two["AP p"] == two["AP low"] == ""
    assert "nan" not in (tmp_path / "report/report.md").read_text()
    # One that only proposes among them: the recall of all is what can be compared.
    evaluated(begun(tmp_path / "proposes", source, "--config.rpn.loss.balance=3.0"), dataset, 0.8)
    markdown = write_report([tmp_path], tmp_path / "report")
    assert markdown.splitlines()[0].split()[:3] == ["rpn.loss.balance", "runs", "AR@100"]


HOSTILE = "=a$b$ x](javascript:alert(1))<script>alert(1)<img src=x>`|*\x1b[31m\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, source, dataset):
    """A report on two runs whose names, classes and starts were chosen by somebody else."""
    root = tmp_path_factory.mktemp("hostile")
    for number, share in enumerate((0.72, 0.92)):
        folder = begun(
            root / f"{HOSTILE}{number}", source, f"--config.rpn.loss.balance={number + 1}.0"
        )
        evaluated(folder, dataset, share)
        facts = STARTED | {"code": {"commit": "c0ffee; touch x\n```\n<b>", "local_changes": "1"}}
        write_text(folder / "runs.jsonl", json.dumps(facts) + "\n")
    file = folder / "evaluation/train/objects.npz"
    with np.load(file) as arrays:
        names = [f"{name}{HOSTILE}" for name in arrays["class_names"]]
        write_npz(file, **{**arrays, "class_names": np.array(names)})
    out = root / "report of both"
    return folder, out, write_report([folder.parent], out), write_report([folder], root / "of one")


@pytest.mark.parametrize("place", ["report of both", "of one"])
def test_names_from_outside_are_shown_as_they_are(hostile, place):
    out = hostile[1].with_name(place)
    page_text = (out / "report.html").read_text()
    page = Page(page_text)
    assert not {"script", "b"} & page.tags
    assert all(image.startswith("data:image/") for image in page.images)
    markdown = (out / "report.md").read_text()
    assert "<script" not in markdown
    # The code blocks end where they should, and hold one line a command.
    blocks = re.findall("^```bash\n(.*?)\n```$", markdown, re.MULTILINE | re.DOTALL)
    assert blocks[0].splitlines()[0] == r"git checkout $'c0ffee; touch x\n```\n\x3cb>'"
    assert [line.split()[0] for line in blocks[0].splitlines()] == ["git", "git", "python"]
    # No bracket of a name closes a link's text.
    assert re.search(r"(?<!\\)\]\(javascript", markdown) is None
    for text in (page_text, markdown, *(file.read_text() for file in out.glob("*.csv"))):
        assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_a_spreadsheet_runs_no_name(hostile):
    _, out, _, _ = hostile
    for file in out.glob("*.csv"):
        for row in csv.reader(file.read_text().splitlines()):
            assert not any(cell.startswith(("=", "@")) for cell in row)
    runs = rows_of(out / "runs.csv")
    assert [run["run"] for run in runs] == [f"'{printable(HOSTILE)}{i}" for i in range(2)]
    assert [float(run["AR@300"]) for run in runs] == [0.5, 0.9]


def test_the_terminal_obeys_no_name(hostile, capsys):
    folder, _, *printed = hostile
    assert main(["status", str(folder)]) == 0
    printed.append(capsys.readouterr().out)
    for text in printed:
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "javascript" in printed[-1]


def test_pictures_of_images_with_what_they_miss(alone):
    markdown = (alone / "report/report.md").read_text()
    for kind, file in (("Best", "best_1"), ("Median", "median_1"), ("Worst", "worst_1")):
        assert f"![{kind}: " in markdown
        assert (alone / f"report/pictures/{file}.jpg").is_file()
    assert "3 of 3 objects found at IoU 0.5, AR 50.0 %" in markdown


def test_validations_of_other_numbers_than_evaluated_are_drawn(alone):
    # Evaluated for AR@300, validated for AR@10 alone.
    markdown = (alone / "report/report.md").read_text()
    assert "![Validation AR@10 to step](plots/validation.svg)" in markdown


def test_pictures_need_the_dataset(dataset, tmp_path):
    folder = begun(tmp_path / "moved", (tmp_path / "gone", tmp_path / "gone"))
    evaluated(folder, dataset, 0.6)
    (text,) = picture_section(gather([folder]).runs[0], 300, tmp_path).parts
    assert text.text.startswith("Not drawn: ")


def test_which_images_are_best_and_worst(dataset):
    records = [dataset[i] for i in range(len(dataset))]
    shares = [0.72, 0.92, 0.5, 0.62, 0.3]  # of images with 1, 1, 0, 3 and 1 objects
    images = [
        image_objects(i, proposals(record, share), record.labels, 300)
        for i, (record, share) in enumerate(zip(records, shares, strict=True))
    ]
    chosen = choose_images(concatenate(images), 300, each=1)
    assert chosen == {"best": [1], "median": [0], "worst": [4]}
    assert choose_images(concatenate(images[:1]), 300) == {"best": [0], "median": [], "worst": []}


def test_several_runs_by_hand(source, dataset, tmp_path):
    """Two seeds of one setting and one of another, whose single seed is not enough for a test."""
    for name, share, fields in (
        ("a", 0.72, ["--config.seed=0"]),
        ("b", 0.82, ["--config.seed=1"]),
        ("c", 0.92, ["--config.rpn.loss.balance=3.0"]),
    ):
        evaluated(begun(tmp_path / name, source, *fields), dataset, share)
    begun(tmp_path / "early", source, "--config.seed=5", last=20)
    study = gather([tmp_path / name for name in ("a", "b", "c", "early")])
    assert (study.base, study.fields) == ("rpn.loss.balance=10", ("rpn.loss.balance",))
    assert [study.labels(setting) for setting in study.settings] == [["10"], ["3"]]
    assert study.runs[-1].remark == "stopped at step 20 of 40"
    figures = compute_figures(study)
    assert figures.settings == {"rpn.loss.balance=10": [0, 1], "rpn.loss.balance=3": [2]}
    np.testing.assert_allclose(figures.values[:, 0], [0.5, 0.7, 0.9])
    comparison = figures.compare(study.base, against_it=True)["rpn.loss.balance=3"]
    assert comparison.seeds == 1
    assert comparison.difference.mean[0] == pytest.approx(0.4)
    assert np.isnan(comparison.p).all()
    assert figures.best() == 4 * [None]
    # A folder that holds the runs is all of them.
    assert [run.name for run in gather([tmp_path]).runs] == ["a", "b", "c", "early"]


def test_images_without_any_object_have_no_figures(source, dataset, tmp_path):
    for number in (1, 2):
        folder = begun(tmp_path / f"{number}", source, f"--config.rpn.loss.balance={number}.0")
        evaluated(folder, dataset, None)
    evaluated(folder, dataset, None, name="train-without-nms", without=("nms",))
    write_report([folder])
    markdown = (folder / "report/report.md").read_text()
    assert "| AR@300 | – | – |" in markdown
    assert "| without NMS | – | – | – | – |" in markdown
    printed = write_report([tmp_path], tmp_path / "report")
    assert printed.splitlines()[1].split()[-4:] == 4 * ["–"]
    markdown += (tmp_path / "report/report.md").read_text()
    assert "| 2 | 1 | – | – | – | – |" in markdown
    assert "nan" not in markdown
    assert "0.0 to 0.0" not in markdown


def test_runs_on_other_images_do_not_count(source, dataset, tmp_path):
    evaluated(begun(tmp_path / "a", source), dataset, 0.72)
    evaluated(begun(tmp_path / "b", source), dataset, 0.72)
    file = tmp_path / "b/evaluation/train/objects.npz"
    with np.load(file) as arrays:
        write_npz(file, **{**arrays, "box": arrays["box"] + 1})
    study = gather([tmp_path])
    assert [run.remark for run in study.runs] == [None, "measured on other images than a"]


@pytest.fixture
def fails(capsys):
    """Runs `report`, which must fail, and returns the one line that it says."""

    def run(*argv):
        assert main(["report", *map(str, argv)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_a_folder_that_holds_no_runs(fails, tmp_path):
    assert "holds no runs" in fails(tmp_path)
    assert "no such folder" in fails(tmp_path / "nowhere")


def test_a_run_that_was_not_evaluated(fails, source, tmp_path):
    folder = begun(tmp_path / "run", source)
    (folder / "checkpoints" / str(STEPS)).mkdir(parents=True)
    assert f"not evaluated; rpn-jax evaluate --workdir={folder}" in fails(folder)


def test_a_run_that_died_in_its_first_step(fails, source, tmp_path):
    assert "stopped before a step was logged" in fails(begun(tmp_path / "run", source, last=0))


def test_an_evaluation_of_another_version(fails, source, dataset, tmp_path):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7)
    (folder / "evaluation/train/objects.npz").unlink()
    assert "objects.npz: no such file; evaluate the run (again)" in fails(folder)


@pytest.mark.parametrize(
    "change",
    [
        "[]",
        "{}",
        "[" * 100_000,
        {"scalars": {"AR@10": "high"}},
        {"headline": None},
        {"recall": {"all": {"many": [0.5]}}},
        {"recall": {"all": {}}},
        {"dataset": None},
        {"step": "40"},
    ],
)
def test_figures_that_were_changed(fails, source, dataset, tmp_path, change):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7)
    (file,) = (folder / "evaluation/train").glob("*.json")
    whole = json.loads(file.read_text())
    file.write_text(change if isinstance(change, str) else json.dumps({**whole, **change}))
    assert "damaged" in fails(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": None},
        {"classes": [{"name": "cat", "objects": 1, "AP": "high"}]},
        {"errors": {}},
        {"precision": {"0.50": [0.5]}},
    ],
)
def test_figures_of_detections_that_were_changed(fails, source, dataset, tmp_path, change):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7, detects=True)
    (file,) = (folder / "evaluation/train").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert "damaged" in fails(folder)


def test_detections_of_other_images(fails, source, dataset, tmp_path):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7, detects=True)
    file = folder / "evaluation/train/detections.npz"
    with np.load(file) as arrays:
        write_npz(file, **{**arrays, "image_id": arrays["image_id"] + 99})
    assert "detections.npz: is of other images" in fails(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"image_index": np.full(6, 5, np.int32)},
        {"class_index": np.full(6, -1, np.int16)},
        {"rank": np.zeros((6, 9), np.uint16)},
        {"box": np.zeros((5, 4), np.float32)},
        {"num_objects": np.zeros(4, np.int32)},
        {"area": np.array(6 * ["large"])},
    ],
)
def test_objects_that_do_not_belong_together(fails, source, dataset, tmp_path, change):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7)
    file = folder / "evaluation/train/objects.npz"
    with np.load(file) as arrays:
        write_npz(file, **{**arrays, **change})
    assert "objects.npz: cannot be read" in fails(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "[" * 100_000,
        {"runs": [None]},
        {"runs": [{"folder": 3, "setting": "", "overrides": {}}]},
        {"base": "nowhere"},
        {"runs": [{"folder": "../other", "setting": "a", "overrides": {}}], "base": "../other"},
    ],
)
def test_a_sweep_that_was_changed(sweep, tmp_path, capsys, content):
    if not isinstance(content, str):
        content = json.dumps(json.loads((sweep[0] / "sweep.json").read_text()) | content)
    (tmp_path / "sweep.json").write_text(content)
    is_of_report = "nowhere" in content
    for command in ("report",) if is_of_report else ("report", "status"):
        assert main([command, str(tmp_path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "sweep.json: is damaged (" in line


def test_several_folders_need_a_place(fails, tmp_path):
    assert "--out: is not given" in fails(tmp_path, tmp_path)
