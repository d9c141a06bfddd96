import cv2
import matplotlib
import numpy as np
import pytest

from rpn_jax.errors import UserError
from rpn_jax.evaluation.recall import ImageProposals, RecallSums, image_recall
from rpn_jax.visualize.plots import plot_coverage, plot_losses, plot_precision, plot_recall_to_iou


def result(height):
    """One object of 100 x 100 and a proposal that covers so many of its hundredths."""
    box = np.array([[0, 0, 100, height]], np.float32)
    one = np.array([0.9], np.float32)
    gt_box = np.array([[0, 0, 100, 100]], np.float32)
    return image_recall(ImageProposals(1, box, one, gt_box, one < 0, 1e4 * one)).result()


@pytest.fixture
def svg_text():
    """SVG with its text as text instead of outlines."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


def test_recall_of_one_result(tmp_path, svg_text):
    plot_recall_to_iou({"VOC 2007 test": result(71)}, tmp_path / "recall.svg")
    svg = (tmp_path / "recall.svg").read_text()
    for text in ["VOC 2007 test", "IoU threshold", "Recall (%)", "top 300: AR 50.0 %"]:
        assert text in svg
    assert svg.count(": AR ") == 5


def test_recall_of_several_results(tmp_path, svg_text):
    results = {"one": result(71), "other": result(96), "nothing": RecallSums.empty().result()}
    plot_recall_to_iou(results, tmp_path / "recall.svg", top_ns=(300, 1000))
    svg = (tmp_path / "recall.svg").read_text()
    assert "one, top 1000: AR 50.0 %" in svg
    assert "other, top 300: AR 100.0 %" in svg
    assert "top 10:" not in svg


def test_a_low_recall_fills_its_plot(tmp_path, svg_text):
    low = image_recall(
        ImageProposals(
            1,
            np.float32([[0, 0, 100, 100]]),
            np.float32([0.9]),
            np.float32([[0, 0, 100, 100], *9 * [[200, 0, 300, 100]]]),
            np.zeros(10, bool),
            np.full(10, 1e4, np.float32),
        )
    ).result()
    plot_recall_to_iou({"one of ten": low}, tmp_path / "low.svg")
    svg = (tmp_path / "low.svg").read_text()
    assert ">10.0<" in svg
    assert ">100<" not in svg
    assert ">20<" not in svg


def test_losses(tmp_path, svg_text):
    rows = [
        {"step": 0, "train/loss": 2.0, "train/loss_box": 1.0, "train/grad_norm": 3.0},
        {"step": 5, "validation/loss": 0.3},
        {"step": 10, "train/loss": float("nan"), "train/loss_box": 0.5},
        {"step": 20, "train/loss": 1.0, "train/loss_box": 0.25},
    ]
    plot_losses(rows, tmp_path / "losses.svg")
    svg = (tmp_path / "losses.svg").read_text()
    assert ">loss<" in svg
    assert ">loss_box<" in svg
    assert "grad_norm" not in svg
    plot_losses(rows, tmp_path / "one.svg", names=["validation/loss"])
    assert ">validation/loss<" in (tmp_path / "one.svg").read_text()


def test_coverage(tmp_path, svg_text):
    objects = np.float32([[10, 20], [30, 30], [300, 200]])
    anchors = {"config": objects[:1], "suggested": objects[1:]}
    best_iou = {"config": np.float32([1, 0.5, 0]), "suggested": np.float32([0, 1, 1])}
    plot_coverage(objects, anchors, best_iou, tmp_path / "coverage.svg")
    svg = (tmp_path / "coverage.svg").read_text()
    for text in [
        "objects (3)",
        "anchors, suggested",
        "config: mean 0.500",
        "suggested: mean 0.667",
        "Width (pixels)",
        "Objects (%)",
        ">256<",
    ]:
        assert text in svg


def test_png(tmp_path):
    plot_losses([], tmp_path / "empty.png")
    rows = [{"step": s, "train/loss": np.exp(-s / 50)} for s in range(300)]
    plot_losses(rows, tmp_path / "losses.png")
    empty, losses = (
        cv2.imread(str(tmp_path / name)).astype(int) for name in ["empty.png", "losses.png"]
    )
    assert losses.shape == empty.shape
    assert (losses != empty).any()


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"use \.png or \.svg"):
        plot_losses([], tmp_path / "losses.pdf")


def test_precision_of_detections(tmp_path, svg_text):
    falling = np.linspace(1, 0, 101)
    curves = {"0.50": falling.tolist(), "0.55": 101 * [0.3], "0.75": 101 * [0.25]}
    plot_precision(curves | {"mean": (falling / 2).tolist()}, tmp_path / "p.svg", title="a $run$")
    svg = (tmp_path / "p.svg").read_text()
    for text in ("IoU 0.50: AP 50.0 %", "IoU 0.75: AP 25.0 %", "0.95: AP 25.0 %", "a $run$"):
        assert text in svg
    assert "IoU 0.55" not in svg
    plot_precision({}, tmp_path / "nothing.png", title="without objects")
    assert (tmp_path / "nothing.png").is_file()
