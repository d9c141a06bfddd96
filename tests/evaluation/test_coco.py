import contextlib
import io
import json

import numpy as np
import pytest
from evaluation.images import random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rpn_jax.evaluation.coco import coco_recall, to_coco_detections, to_coco_results
from rpn_jax.evaluation.recall import TOP_NS, RecallSums, image_recall


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shapes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), min_size=1, max_size=4),
)
def test_counts_are_those_of_pycocotools(seed, shapes):
    images = random_images(seed, shapes)
    top_ns = (1, 10, 50)
    ours = sum((image_recall(image, top_ns) for image in images), RecallSums.empty(top_ns))
    coco = coco_recall(images, top_ns)
    np.testing.assert_array_equal(ours.matched, coco.matched)
    np.testing.assert_array_equal(ours.total, coco.total)
    assert (ours.images, ours.proposals) == (coco.images, coco.proposals)


def test_average_recall_is_that_of_pycocotools_over_the_whole_set():
    """Against pycocotools as its own demo calls it, over all images at once, > 1000 proposals."""
    images = random_images(0, [(1100, 15), (300, 1), (0, 3), (200, 0), (40, 25)])
    annotations = [
        {
            "image_id": image.image_id,
            "category_id": 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(area),
            "iscrowd": int(ignore),
        }
        for image in images
        for (x1, y1, x2, y2), area, ignore in zip(
            image.gt_boxes.tolist(), image.gt_areas, image.gt_ignore, strict=True
        )
    ]
    ground_truth = COCO()
    ground_truth.dataset = {
        "images": [{"id": image.image_id} for image in images],
        "categories": [{"id": 1}],
        "annotations": [{"id": i, **row} for i, row in enumerate(annotations, start=1)],
    }
    results = [
        row
        for image in images
        for row in to_coco_results(image.image_id, image.boxes, image.scores)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(TOP_NS)
        evaluation.evaluate()
        evaluation.accumulate()
    expected = evaluation.eval["recall"][:, 0].mean(axis=0)  # (size range, top N)

    ours = sum(map(image_recall, images), RecallSums.empty()).result()
    in_pieces = (coco_recall(images[:2]) + coco_recall(images[2:])).result()
    np.testing.assert_allclose(ours.recall.mean(axis=1), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(in_pieces.recall.mean(axis=1), expected, rtol=0, atol=1e-12)


def test_prints_nothing(capsys):
    coco_recall(random_images(1, [(5, 2)]))
    assert capsys.readouterr().out == ""


def test_without_anything():
    assert coco_recall([]).total.tolist() == [0, 0, 0, 0]
    assert coco_recall(random_images(2, [(0, 0), (5, 0)])).matched.max() == 0


def test_refuses_what_pycocotools_would_confuse():
    image = random_images(3, [(5, 2)])[0]
    with pytest.raises(ValueError, match="twice"):
        coco_recall([image, image])
    with pytest.raises(ValueError, match="rise"):
        coco_recall([image], top_ns=(100, 10))


def test_results_list():
    results = to_coco_results(
        np.int64(42), np.array([[1, 2, 4, 8]], np.float32), np.array([0.5], np.float32)
    )
    assert json.loads(json.dumps(results)) == [
        {"image_id": 42, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    ]


def test_list_of_detections_has_the_ids_of_the_source():
    boxes = np.array([[1, 2, 4, 8], [0, 0, 1, 1]], np.float32)
    scores, labels = np.array([0.5, 0.25], np.float32), np.array([1, 0])
    rows = to_coco_detections(np.int64(42), boxes, scores, labels, category_ids=(7, 90))
    assert json.loads(json.dumps(rows)) == [
        {"image_id": 42, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5},
        {"image_id": 42, "category_id": 7, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.25},
    ]
    assert to_coco_detections("a", boxes[:0], scores[:0], labels[:0], ()) == []
    assert to_coco_detections("a", boxes[:1], scores[:1], labels[:1], ("b", "c"))[0] == {
        **rows[0],
        "image_id": "a",
        "category_id": "c",
    }
