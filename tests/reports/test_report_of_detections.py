"""Reports on runs that detect."""

import json
import re

import pytest
from studies import Page, begun, evaluated, rows_of

from rpn_jax.errors import UserError
from rpn_jax.reports.report import write_report


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
    assert "| proposals AR@300 | 50.0 | 50.0 to 50.0 |" in markdown
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


def test_masks_stand_beside_boxes(source, dataset, tmp_path, detector):
    folder = begun(tmp_path / "masks", source)
    evaluated(folder, dataset, 0.72, detects=True, masks=True)
    printed = write_report([folder])
    markdown = (folder / "report/report.md").read_text()
    without = (detector / "report/report.md").read_text()
    for name in ("AP", "AP50", "AP75"):
        of_boxes, of_masks = (
            re.search(rf"^\| {title} \| (.*) \|$", markdown, re.MULTILINE)[1]
            for title in (name, f"masks {name}")
        )
        assert of_masks == of_boxes
        assert f"masks {name}" in printed
    assert "![Precision of masks: " in markdown
    assert markdown.count("| class | objects | AP |") == 2
    assert re.search(r"\| masks AP of \w+ objects \|", markdown)
    assert "masks" not in without
    # Beside a run without masks, what can be compared are boxes.
    figures = json.loads((folder / "evaluation/train/figures.json").read_text())
    write_report([folder, detector], tmp_path / "both")
    assert "masks AP" not in (tmp_path / "both/report.md").read_text()
    del figures["masks"]["errors"]
    (folder / "evaluation/train/figures.json").write_text(json.dumps(figures))
    with pytest.raises(UserError, match="its figures are damaged"):
        write_report([folder])


def test_runs_with_masks(source, dataset, tmp_path):
    for seed in range(2):
        folder = begun(tmp_path / str(seed), source, f"--config.seed={seed}")
        evaluated(folder, dataset, 0.72 + 0.1 * seed, detects=True, masks=True)
        figures = {"validation/AP": 0.5, "validation/AP_small": 0.3, "validation/masks_AP": 0.4}
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 40, "validation/loss": 0.5, **figures}) + "\n")
    write_report([tmp_path], tmp_path / "report")
    markdown = (tmp_path / "report/report.md").read_text()
    assert "| AP | AP50 | AP75 | masks AP | masks AP50 | masks AP75 | proposals " in markdown
    assert (tmp_path / "report/plots/masks_precision_mean.svg").exists()
    for name in ("AP", "masks AP"):
        assert f"![Validation {name} to step]" in markdown
    (row,) = rows_of(tmp_path / "report/settings.csv")
    assert row["masks AP"] == row["AP"]
    assert "nan" not in markdown


def test_runs_that_detect(source, dataset, tmp_path):
    for number, share in enumerate((0.72, 0.92)):
        fields = [f"--config.rpn.loss.balance={number + 1}.0"]
        for seed in range(2):
            folder = begun(tmp_path / f"{number}{seed}", source, *fields, f"--config.seed={seed}")
            evaluated(folder, dataset, share, detects=True)
    write_report([tmp_path], tmp_path / "report")
    markdown = (tmp_path / "report/report.md").read_text()
    assert "| runs | AP | AP50 | AP75 | proposals AR@100 |" in markdown
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
