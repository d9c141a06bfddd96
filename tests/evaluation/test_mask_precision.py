"""Average precision of masks: COCO's twelve figures are pycocotools' own of a whole split."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import area

from rpn_jax.data.masks import encode, extent
from rpn_jax.evaluation.detections import ImageDetections
from rpn_jax.evaluation.precision import SCALARS, MaskMeasurement

HW = 160, 180
NAMES = ("cat", "dog")


def ellipse(rng, size):
    y, x = np.mgrid[: HW[0], : HW[1]] + 0.5
    centre, radii = rng.uniform(0, HW), rng.uniform(0.3, 1, 2) * size
    return centre, radii, lambda c, r: ((y - c[0]) / r[0]) ** 2 + ((x - c[1]) / r[1]) ** 2 < 1


def boxes_of(masks):
    return np.float32([extent(counts, *HW) for counts in masks]).reshape(-1, 4)


def an_image(seed):
    """Objects of all sizes, a crowd, and detections near to them and elsewhere."""
    rng = np.random.default_rng(seed)
    gt, found = [], []
    for size in rng.choice([8, 25, 100], rng.integers(0, 7)):
        centre, radii, draw = ellipse(rng, size)
        gt.append(encode(draw(centre, radii)))
        for _ in range(rng.integers(0, 4)):
            moved = centre + rng.normal(0, 0.08, 2) * radii
            found.append(encode(draw(moved, radii * rng.uniform(0.8, 1.2, 2))))
    found += [encode(draw(c, r)) for c, r, draw in (ellipse(rng, 20) for _ in range(3))]
    gt_labels = rng.integers(0, 2, len(gt))
    return ImageDetections(
        seed + 1,
        boxes_of(found),
        rng.integers(1, 20, len(found)).astype(np.float32) / 20,
        rng.integers(0, 2, len(found)),
        boxes_of(gt),
        gt_labels,
        rng.random(len(gt)) < 0.2,
        np.float32([area({"size": HW, "counts": counts}) for counts in gt]),
        found,
        gt,
        HW,
    )


def of_pycocotools(images):
    """Its evaluation of all images at once, called as its own demo does."""

    def rows(image, masks, labels, **columns):
        for i, (counts, label) in enumerate(zip(masks, labels, strict=True)):
            runs = {"size": list(HW), "counts": counts.decode()}
            others = {name: column[i].tolist() for name, column in columns.items()}
            place = {"image_id": image.image_id, "category_id": int(label)}
            yield {**place, "segmentation": runs, **others}

    objects = [
        row
        for image in images
        for row in rows(
            image,
            image.gt_masks,
            image.gt_labels,
            bbox=image.gt_boxes,
            area=image.gt_areas,
            iscrowd=image.gt_ignore.astype(int),
        )
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image.image_id, "height": HW[0], "width": HW[1]} for image in images],
        "categories": [{"id": i} for i in range(len(NAMES))],
        "annotations": [{**row, "id": i} for i, row in enumerate(objects, 1)],
    }
    results = [
        row
        for image in images
        for row in rows(image, image.masks, image.labels, score=image.scores)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.fixture(scope="module")
def images():
    return [an_image(seed) for seed in range(12)]


def measured(images):
    measurement = MaskMeasurement(NAMES)
    for image in images:
        measurement.add(image)
    return measurement


def test_figures_are_pycocotools_to_the_digit_on_any_number_of_processes(images):
    expected = of_pycocotools(images)
    shared = MaskMeasurement(NAMES)
    for part in (images[7:], images[:7]):
        shared.merge(json.loads(json.dumps(measured(part).share())))
    for measurement in (measured(images), shared):
        scalars = measurement.result().scalars
        ours = [scalars[name] for name in SCALARS[:12]]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
        assert 0.1 < scalars["AP"] < scalars["AP50"]


def test_an_object_without_a_mask_is_an_ignore_region_over_its_box(images):
    (image,) = (image for image in images if image.image_id == 3)
    one = image._replace(gt_masks=[b"", *image.gt_masks[1:]])
    ignored = image._replace(
        gt_masks=[encode(np.ones(HW, bool)), *image.gt_masks[1:]],
        gt_ignore=np.array([True, *image.gt_ignore[1:]]),
    )
    counts = [measured([each]).result().details["masks"]["objects"] for each in (one, ignored)]
    assert counts[0] == counts[1]


def test_no_detection_and_no_object_have_figures():
    none = np.zeros((0, 4), np.float32)
    nothing = np.zeros(0, np.int64)
    empty = ImageDetections(
        1, none, np.zeros(0), nothing, none, nothing, nothing > 0, np.zeros(0), [], [], HW
    )
    assert measured([empty]).result().scalars == {}
