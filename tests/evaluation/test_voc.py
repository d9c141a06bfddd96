import numpy as np
import pytest
from evaluation.images import random_detections

from rpn_jax.evaluation.precision import PrecisionMeasurement
from rpn_jax.evaluation.voc import voc_precision, voc_verdicts


def reference(images, label):
    """The arithmetic of py-faster-rcnn's `voc_eval`, which is given the pixels of VOC's files.

    Those are the first and the last pixel of a box, from 1. Images come in the order of their ids.
    """
    to_pixels = np.array([1.0, 1.0, 0.0, 0.0])
    objects, rows = {}, []
    for image in images:
        own = image.gt_labels == label
        boxes = image.gt_boxes[own].astype(np.float64) + to_pixels
        difficult = image.gt_ignore[own].tolist()
        objects[image.image_id] = (boxes.tolist(), difficult, [False] * len(difficult))
        for box, score, its in zip(image.boxes, image.scores, image.labels, strict=True):
            if its == label:
                rows.append((-float(score), image.image_id, box.astype(np.float64) + to_pixels))
    count = sum(not flag for _, difficult, _ in objects.values() for flag in difficult)
    if not count:
        return None
    found, false, recall, precision = 0, 0, [], []
    for _, image_id, (x1, y1, x2, y2) in sorted(rows, key=lambda row: row[0]):
        boxes, difficult, taken = objects[image_id]
        best, best_iou = None, -np.inf
        for j, (a1, b1, a2, b2) in enumerate(boxes):
            width = max(min(x2, a2) - max(x1, a1) + 1.0, 0.0)
            height = max(min(y2, b2) - max(y1, b1) + 1.0, 0.0)
            both = (x2 - x1 + 1.0) * (y2 - y1 + 1.0) + (a2 - a1 + 1.0) * (b2 - b1 + 1.0)
            iou = width * height / (both - width * height)
            if iou > best_iou:
                best, best_iou = j, iou
        if best_iou > 0.5:
            if not difficult[best]:
                found, false = (found, false + 1) if taken[best] else (found + 1, false)
                taken[best] = True
        else:
            false += 1
        recall.append(found / count)
        precision.append(found / max(found + false, np.finfo(np.float64).eps))
    points = 0.0
    for t in np.arange(0.0, 1.1, 0.1):
        points += max((p for r, p in zip(recall, precision, strict=True) if r >= t), default=0) / 11
    area, before = 0.0, 0.0
    for i, r in enumerate(recall):
        if r != before:
            area += (r - before) * max(precision[i:])
        before = r
    return [points, area]


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_py_faster_rcnn(seed):
    images = random_detections(seed, [(40, 12), (60, 5), (0, 4), (30, 0), (90, 20)])
    measurement = PrecisionMeasurement(("none", "cat", "dog"))
    for image in images:
        measurement.add(image)
    figures = measurement.result()
    expected = [reference(images, label) for label in range(3)]
    assert expected[0] is None
    rows = figures.details["classes"][1:]
    ours = np.array([[row["VOC07"], row["VOC12"]] for row in rows])
    np.testing.assert_allclose(ours, expected[1:], rtol=0, atol=1e-14)
    assert figures.scalars["VOC07"] == ours[:, 0].mean()
    assert figures.scalars["VOC12"] == ours[:, 1].mean()


def verdicts(iou, ignore=None):
    iou = np.array(iou, np.float64)
    ignore = np.zeros(iou.shape[1], bool) if ignore is None else np.array(ignore)
    return voc_verdicts(iou, np.ones(iou.shape, bool), ignore).tolist()


def test_a_detection_has_no_second_choice():
    # The second covers object 0 most, which is taken, and object 1 well enough: false nevertheless.
    assert verdicts([[0.9, 0.6], [0.8, 0.7], [0.1, 0.6]]) == [1, 0, 1]


def test_an_iou_of_a_half_is_too_little():
    assert verdicts([[0.5], [np.nextafter(0.5, 1)]]) == [0, 1]


def test_on_equal_iou_the_first_object_is_taken():
    assert verdicts([[0.6, 0.6], [0.0, 0.6], [0.6, 0.0]]) == [1, 1, 0]


def test_a_difficult_object_is_found_by_any_number_for_nothing():
    assert verdicts([[0.6, 0.9], [0.6, 0.9], [0.6, 0.0]], ignore=[False, True]) == [-1, -1, 1]


def test_a_recall_of_three_tenths_does_not_reach_the_fourth_point():
    # numpy.arange(0, 1.1, 0.1)[3] is 0.30000000000000004, more than 3 / 10.
    precision = voc_precision(np.array([0.9, 0.8, 0.7]), np.ones(3, int), num_objects=10)
    assert precision.eleven_points == pytest.approx(3 / 11, abs=1e-15)
    assert precision.area == pytest.approx(0.3)


def test_equal_scores_keep_their_order():
    found, false = [1, 0], [0, 1]
    scores = np.array([0.5, 0.5])
    assert voc_precision(scores, np.array(found), 1).area == 1.0
    assert voc_precision(scores, np.array(false), 1).area == 0.5


def test_what_is_left_out_does_not_divide_by_0():
    assert voc_precision(np.array([0.9, 0.8]), np.array([-1, 1]), 1).area == 1.0
    assert voc_precision(np.array([0.9]), np.array([-1]), 1) == (0.0, 0.0)
    assert voc_precision(np.zeros(0), np.zeros(0, int), 1) == (0.0, 0.0)
