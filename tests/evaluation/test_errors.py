import numpy as np
import pytest
from evaluation.images import random_detections

from rpn_jax.evaluation.errors import Error, explain
from rpn_jax.evaluation.precision import ImageDetections, PrecisionMeasurement

CAT, DOG = 0, 1


def figures_of(*images):
    measurement = PrecisionMeasurement(("cat", "dog"))
    for i, (detections, objects) in enumerate(images):
        boxes, scores, labels = zip(*detections, strict=True)
        gt_boxes, gt_labels = map(np.array, zip(*objects, strict=True))
        no_crowd = np.zeros(len(objects), bool)
        areas = np.full(len(objects), 100.0, np.float32)
        measurement.add(
            ImageDetections(
                i,
                np.float32(boxes),
                np.float32(scores),
                np.array(labels),
                np.float32(gt_boxes),
                gt_labels,
                no_crowd,
                areas,
            )
        )
    return measurement.result()


def in_row(place, part=10):
    """A box that covers `part` tenths of the object at that place."""
    return [100 * place, 0, 100 * place + 10, part]


@pytest.mark.parametrize(
    ("kind", "detection"),
    [
        ("class", (in_row(0), 0.5, DOG)),
        ("box", (in_row(0, 4), 0.5, CAT)),
        ("both", (in_row(0, 4), 0.5, DOG)),
        ("background", (in_row(7), 0.5, CAT)),
    ],
)
def test_a_single_error_is_of_its_kind_alone(kind, detection):
    figures = figures_of(([detection], [(in_row(0), CAT)]))
    errors = figures.details["errors"]
    assert figures.scalars["AP50"] == 0.0
    # Mended, it finds the cat; without it nothing is found all the same.
    expected = dict.fromkeys(["class", "box", "both", "duplicate", "background", "missed"], 0.0)
    expected |= {name: 1.0 for name in ("class", "box") if name == kind}
    assert errors == pytest.approx(expected)


def test_what_is_in_front_of_a_right_one_costs():
    right, duplicate = (in_row(0), 0.5, CAT), (in_row(0, 9), 0.9, CAT)
    objects = [(in_row(0), CAT), (in_row(1), CAT)]
    # In front is the duplicate of object 0: it is the one that counts, the other is the duplicate.
    second = (in_row(1), 0.4, CAT)
    errors = figures_of(([right, duplicate, second], objects)).details["errors"]
    # Precision 1 up to recall 0.5 (51 points), then 2/3 (50 points); without the duplicate 1.
    assert errors["duplicate"] == pytest.approx(50 / 3 / 101)
    assert sum(errors.values()) == errors["duplicate"]
    background = (in_row(7), 0.9, CAT)
    errors = figures_of(([right, background, second], objects)).details["errors"]
    # Precision 2/3 everywhere, else 1.
    assert errors["background"] == pytest.approx(1 / 3)


def test_missed_objects():
    errors = figures_of(([(in_row(0), 0.5, CAT)], [(in_row(0), CAT), (in_row(1), CAT)]))
    # 51 of 101 points are reached; if the other object did not count, all would be.
    assert errors.details["errors"]["missed"] == pytest.approx(50 / 101)
    # An object that a mended detection would find is not missed.
    found = [(in_row(0), 0.5, CAT), (in_row(1, 3), 0.4, CAT)]
    errors = figures_of((found, [(in_row(0), CAT), (in_row(1), CAT)])).details["errors"]
    assert errors["missed"] == 0.0
    assert errors["box"] == pytest.approx(50 / 101)


def test_an_object_is_found_by_one_mended_detection():
    iou = np.array([[0.3], [0.4], [0.4]])
    every = np.ones((3, 1), bool)
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    scores = np.array([0.5, 0.9, 0.9])
    explained = explain(iou, scores, every, every[:, 0], np.array([7]), yes, no)
    assert explained.error.tolist() == [Error.BOX] * 3
    assert explained.corrected_label.tolist() == [-1, 7, -1]
    assert not explained.gt_missed.any()
    # None of them, where a right one has found it already.
    explained = explain(iou, scores, every, every[:, 0], np.array([7]), yes, yes)
    assert explained.corrected_label.tolist() == [-1, -1, -1]


def test_without_objects_all_is_background():
    nothing = np.zeros((2, 0))
    explained = explain(
        nothing,
        np.ones(2),
        nothing.astype(bool),
        np.array([True, False]),
        np.zeros(0, int),
        np.zeros(0, bool),
        np.zeros(0, bool),
    )
    assert explained.error.tolist() == [Error.BACKGROUND, Error.NONE]


def test_every_false_detection_has_one_kind():
    measurement = PrecisionMeasurement(("none", "cat", "dog"))
    for image in random_detections(0, [(40, 12), (60, 5), (0, 4), (30, 0), (90, 20)]):
        measurement.add(image)
    details = measurement.result().details
    assert list(details["errors"]) == [kind.name.lower() for kind in Error][1:]
    assert all(0 <= part <= 1 for part in details["errors"].values())


def test_parts_are_those_of_tide():
    rng = np.random.default_rng(0)
    measurement = PrecisionMeasurement("abcde")
    for i in range(20):
        gt_boxes = np.tile(rng.uniform(0, 400, (8, 2)), 2)
        gt_boxes[:, 2:] += rng.uniform(10, 200, (8, 2))
        gt_labels, near = rng.integers(0, 5, 8), rng.integers(0, 8, 60)
        boxes = (gt_boxes[near] + rng.normal(0, 15, (60, 4))).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        boxes[rng.random(60) < 0.1] += 500
        labels = np.where(rng.random(60) < 0.7, gt_labels[near], rng.integers(0, 5, 60))
        scores = rng.random(60).astype(np.float32)
        gt_boxes = gt_boxes.astype(np.float32)
        areas = np.prod(gt_boxes[:, 2:] - gt_boxes[:, :2], axis=1)
        no_crowd = np.zeros(8, bool)
        measurement.add(
            ImageDetections(i, boxes, scores, labels, gt_boxes, gt_labels, no_crowd, areas)
        )
    figures = measurement.result()
    # tidecv 1.0.1, TIDE().evaluate(..., mode=TIDE.BOX).
    expected = {
        "class": 5.52966407,
        "box": 13.051786019,
        "both": 1.691731857,
        "duplicate": 3.763581952,
        "background": 6.510949196,
        "missed": 0.332307654,
    }
    assert 100 * figures.scalars["AP50"] == pytest.approx(30.724060635)
    assert {k: 100 * v for k, v in figures.details["errors"].items()} == pytest.approx(expected)
