import contextlib
import io
import json
import random

import numpy as np
import pytest
from evaluation.images import random_detections
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rpn_jax.evaluation.coco import to_coco_detections
from rpn_jax.evaluation.figures import Measurement, of_all
from rpn_jax.evaluation.matching import to_xywh
from rpn_jax.evaluation.precision import ImageDetections, PrecisionMeasurement

NAMES = ("none", "cat", "dog")
TWELVE = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR@1", "AR@10", "AR@100", "AR_small@100", "AR_medium@100", "AR_large@100"),
)


def an_image(boxes, scores, labels, gt_boxes, gt_labels, *, ignore=None, image_id=1):
    gt_boxes = np.array(gt_boxes, np.float32).reshape(-1, 4)
    return ImageDetections(
        image_id,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int32),
        gt_boxes,
        np.array(gt_labels, np.int32),
        np.zeros(len(gt_boxes), bool) if ignore is None else np.array(ignore),
        np.prod(gt_boxes[:, 2:] - gt_boxes[:, :2], axis=1),
    )


def measured(images, names=NAMES):
    measurement = PrecisionMeasurement(names)
    for image in images:
        measurement.add(image)
    return measurement


def of_pycocotools(images, category_ids):
    """Its evaluation of all images at once, called as its own demo does."""
    rows = []
    for image in images:
        columns = (to_xywh(image.gt_boxes), image.gt_areas, image.gt_ignore, image.gt_labels)
        for bbox, area, ignore, label in zip(*(c.tolist() for c in columns), strict=True):
            row = {"id": len(rows) + 1, "image_id": image.image_id, "bbox": bbox, "area": area}
            rows.append({**row, "iscrowd": int(ignore), "category_id": category_ids[label]})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image.image_id} for image in images],
        "categories": [{"id": i} for i in category_ids],
        "annotations": rows,
    }
    results = [row for image in images for row in to_coco_detections(*image[:4], category_ids)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal_to_pycocotools(images, names):
    category_ids = [3 * i + 1 for i in range(len(names))]
    theirs = of_pycocotools(images, category_ids)
    ours = measured(images, names).result()
    expected = {n: v for n, v in zip(TWELVE, theirs.stats, strict=True) if v >= 0}
    assert {n: v for n, v in ours.scalars.items() if "VOC" not in n} == pytest.approx(
        expected, rel=0, abs=1e-12
    )
    precision = theirs.eval["precision"][:, :, :, 0, 2]
    for k, row in enumerate(ours.details["classes"]):
        if row["objects"]:
            of_class = [precision[:, :, k].mean(), precision[0, :, k].mean()]
            assert [row["AP"], row["AP50"]] == pytest.approx(of_class, rel=0, abs=1e-12)
        else:
            assert row["AP"] is row["VOC07"] is None


def test_by_hand():
    # Two cats, 100 x 100; two detections cover 90 and 60 hundredths, between them one of a dog.
    image = an_image(
        boxes=[[0, 0, 100, 90], [300, 0, 400, 100], [200, 0, 300, 60]],
        scores=[0.9, 0.8, 0.7],
        labels=[1, 1, 1],
        gt_boxes=[[0, 0, 100, 100], [200, 0, 300, 100]],
        gt_labels=[1, 1],
    )
    figures = measured([image]).result()
    # To IoU 0.60, both are found: precision 1 up to recall 0.5 (51 points), 2/3 up to 1 (50). From
    # 0.65 to 0.90 (6 of 10) one is found: precision 1 at 51 points. At 0.95, none.
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert figures.scalars == pytest.approx(
        {
            "AP": (3 * both + 6 * one) / 10,
            "AP50": both,
            "AP75": one,
            "AP_large": (3 * both + 6 * one) / 10,
            "AR@1": 9 * 0.5 / 10,
            "AR@10": (3 + 6 * 0.5) / 10,
            "AR@100": (3 + 6 * 0.5) / 10,
            "AR_large@100": (3 + 6 * 0.5) / 10,
            "VOC07": (6 * 1 + 5 * 2 / 3) / 11,
            "VOC12": 0.5 * 1 + 0.5 * 2 / 3,
        }
    )
    assert figures.headline == "AP"
    assert list(of_all(figures.scalars))[:3] == ["AP", "AP50", "AP75"]
    assert figures.details["objects"] == {"all": 2, "small": 0, "medium": 0, "large": 2}
    assert figures.details["precision"]["0.50"] == pytest.approx([1.0] * 51 + [2 / 3] * 50)
    assert len(figures.details["precision"]) == 11


@pytest.mark.parametrize(
    "shapes",
    [
        [(40, 12), (60, 5), (0, 4), (30, 0), (90, 20)],
        [(500, 6), (20, 3)],  # more than 100 of a class
        [(5, 1)],
    ],
)
def test_figures_are_those_of_pycocotools(shapes):
    for seed in range(3):
        assert_equal_to_pycocotools(random_detections(seed, shapes), NAMES)


def test_a_class_without_detections_counts_and_one_without_objects_does_not():
    image = an_image(
        [[0, 0, 9, 9]] * 2, [0.5, 0.5], [1, 0], [[0, 0, 9, 9], [20, 20, 29, 29]], [1, 2]
    )
    figures = measured([image]).result()
    assert [figures.scalars[name] for name in ("AP", "VOC12")] == pytest.approx([0.5, 0.5])
    none, cat, dog = figures.details["classes"]
    assert (none["AP"], cat["AP"], dog["AP"]) == (None, pytest.approx(1.0), 0.0)
    assert figures.table.splitlines()[-3].split() == ["none", "0", *5 * "-"]


def test_the_order_of_images_and_their_split_over_processes_do_not_matter():
    images = random_detections(4, [(40, 12), (60, 5), (0, 4), (30, 0), (90, 20)])
    expected = measured(images).result()
    shuffled = random.Random(0).sample(images, len(images))
    shares = [json.loads(json.dumps(measured(s).share())) for s in (shuffled[:2], shuffled[2:], [])]
    for order in (shares, shares[::-1]):
        total = PrecisionMeasurement(NAMES)
        for share in order:
            total.merge(share)
        ours = total.result()
        assert ours[:4] == expected[:4]
        assert ours.arrays.keys() == expected.arrays.keys()
        for name, array in ours.arrays.items():
            np.testing.assert_array_equal(array, expected.arrays[name])


def test_figures_are_json():
    figures = measured(random_detections(5, [(40, 12), (60, 5)])).result()
    text = json.dumps(figures.to_json(), allow_nan=False)
    assert json.loads(text) == figures.to_json()


def test_the_table_is_aligned():
    figures = measured(
        random_detections(5, [(40, 12), (60, 5)]), ("none", "a long name", "dog")
    ).result()
    lines = figures.table.splitlines()
    assert lines[0].startswith("2 images, 1")
    assert len({len(line) for line in lines[-4:]}) == 1
    assert [len(line) for line in lines[2:6:2]] == [len(line) for line in lines[3:6:2]]


@pytest.mark.parametrize(
    "images",
    [
        [],
        [an_image([], [], [], [], [])],
        [an_image([[0, 0, 9, 9]], [0.5], [1], [], [])],
        [an_image([[0, 0, 9, 9]], [0.5], [1], [[0, 0, 9, 9]], [1], ignore=[True])],
    ],
)
def test_without_objects_there_is_no_figure(images):
    figures = measured(images).result()
    assert figures.scalars == {}
    assert figures.details["precision"] == figures.details["errors"] == {}
    json.dumps(figures.to_json(), allow_nan=False)
    assert " - " in figures.table


def test_without_detections_all_is_0():
    figures = measured([an_image([], [], [], [[0, 0, 99, 99]], [1])]).result()
    assert set(figures.scalars.values()) == {0.0}
    assert list(of_all(figures.scalars)) == [
        *("AP", "AP50", "AP75", "AR@1", "AR@10", "AR@100", "VOC07", "VOC12")
    ]


def test_what_cannot_be_right_is_refused(capsys):
    measurement = measured([an_image([[0, 0, 9, 9]], [0.5], [1], [], [])])
    assert isinstance(measurement, Measurement)
    with pytest.raises(ValueError, match="image 1 is measured twice"):
        measurement.add(an_image([], [], [], [], []))
    with pytest.raises(ValueError, match="image 2: a label"):
        measurement.add(an_image([[0, 0, 9, 9]], [0.5], [3], [], [], image_id=2))
    assert capsys.readouterr().out == ""


def test_real_annotations(shared_data):
    content = json.loads(shared_data("coco128/annotations/instances_train2017.json").read_text())
    label_of = {c["id"]: i for i, c in enumerate(content["categories"])}
    rng = np.random.default_rng(0)
    images = []
    for image in content["images"][:40]:
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        x, y, w, h = np.array([row["bbox"] for row in rows]).reshape(-1, 4).T
        gt_boxes = np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)
        gt_labels = np.array([label_of[row["category_id"]] for row in rows], int)
        near = np.repeat(np.arange(len(rows)), 3)
        sides = (gt_boxes[near, 2:] - gt_boxes[near, :2])[:, [0, 1, 0, 1]]
        boxes = gt_boxes[near] + rng.normal(0, 0.08, sides.shape).astype(np.float32) * sides
        other = rng.integers(0, len(label_of), len(near))
        images.append(
            ImageDetections(
                image["id"],
                boxes,
                rng.integers(5, 100, len(near)).astype(np.float32) / 100,
                np.where(rng.random(len(near)) < 0.8, gt_labels[near], other),
                gt_boxes,
                gt_labels,
                np.array([row["iscrowd"] for row in rows], bool),
                np.array([row["area"] for row in rows], np.float32),
            )
        )
    assert_equal_to_pycocotools(images, [c["name"] for c in content["categories"]])
