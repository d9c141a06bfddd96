"""Reports on runs whose evaluations are written by hand."""

import re

import numpy as np
import pytest
from studies import Page, begun, evaluated, proposals, rows_of

from rpn_jax.evaluation.objects import concatenate, image_objects
from rpn_jax.files import write_npz
from rpn_jax.reports.comparison import compute_figures
from rpn_jax.reports.report import write_report
from rpn_jax.reports.results import gather
from rpn_jax.reports.single_run import choose_images, picture_section


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


def test_the_table_of_a_sweep(sweep):
    out, printed = sweep
    # 0.72 of an object reaches the thresholds 0.5 to 0.7, 5 of 10; 0.92 reaches 9.
    markdown = (out / "report/report.md").read_text()
    assert "| rpn.loss.balance | runs | AR@100 | AR@300 | recall@0.5 | recall@0.7 | " in markdown
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
    assert study.runs[-1].remark == (
        "stopped at step 20 of 40: has no checkpoint, and would begin anew"
    )
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
