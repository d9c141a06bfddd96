"""The same recall from pycocotools, and proposals as COCO's list of results.

`coco_recall` is the independent check of `evaluation.recall`: pycocotools itself, `useCats=0`, in
memory and without its prints. Its loops are in Python (0.1 s for an image with 1000
proposals, a dozen times that of `image_recall`), hence the faster matching there.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rpn_jax.evaluation.matching import IOU_THRESHOLDS, to_xywh
from rpn_jax.evaluation.recall import SIZE_RANGES, TOP_NS, ImageProposals, RecallSums
from rpn_jax.typing import Array


def coco_recall(images: Sequence[ImageProposals], top_ns: Sequence[int] = TOP_NS) -> RecallSums:
    """Returns pycocotools' counts of found objects in `images`, whose `image_id`s must differ.

    Counts of several calls add up, as with `image_recall`. Give a long split piece by piece:
    COCO's dicts of a million proposals take gigabytes. Ignored boxes become crowds, the only flag
    that pycocotools heeds.

    Raises ValueError if an `image_id` comes twice or `top_ns` does not rise.
    """
    images = [image._replace(image_id=int(image.image_id)) for image in images]
    if len({image.image_id for image in images}) < len(images):
        raise ValueError("coco_recall was given an image_id twice")
    top_ns = tuple(top_ns)
    if list(top_ns) != sorted(set(top_ns)):
        raise ValueError(f"top_ns must rise, as pycocotools sorts them, not {top_ns}")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_annotations(images), _results(images), iouType="bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(top_ns)
        evaluation.params.iouThrs = IOU_THRESHOLDS
        evaluation.params.areaRng = [list(limits) for limits in SIZE_RANGES.values()]
        evaluation.params.areaRngLbl = list(SIZE_RANGES)
        evaluation.evaluate()
        evaluation.accumulate()
    # One entry per (size range, image), the image varying fastest; None for an empty image.
    objects = [0 if e is None else int((e["gtIgnore"] == 0).sum()) for e in evaluation.evalImgs]
    total = np.array(objects, np.int64).reshape(len(SIZE_RANGES), len(images)).sum(axis=1)
    # recall[T, category, S, N] is a ratio of counts, and -1 where there is no object.
    recall = evaluation.eval["recall"][:, 0].transpose(1, 0, 2)
    matched = np.rint(np.maximum(recall, 0) * total[:, None, None]).astype(np.int64)
    proposals = sum(min(len(image.scores), max(top_ns)) for image in images)
    return RecallSums(top_ns, matched, total, len(images), proposals)


def to_coco_results(
    image_id: int | np.integer | str,
    boxes: Float[Array, "P 4"],
    scores: Float[Array, " P"],
    category_id: int | str = 1,
) -> list[dict]:
    """Returns one image's proposals as entries of COCO's list of results, for `json.dump`.

    All are of one category, because proposals have no classes. Give one that the data have:
    pycocotools leaves out results of any other, with `useCats=0` too. `bbox` is x, y, width, height
    in the pixels of `boxes`; COCO wants those of the original image.
    """
    labels = np.zeros(len(scores), np.int64)
    return to_coco_detections(image_id, boxes, scores, labels, category_ids=(category_id,))


def to_coco_detections(
    image_id: int | np.integer | str,
    boxes: Float[Array, "D 4"],
    scores: Float[Array, " D"],
    labels: Int[Array, " D"],
    category_ids: Sequence[int | str],
) -> list[dict]:
    """Returns one image's detections as entries of COCO's list of results, for `json.dump`.

    Args:
        image_id: the source's own id of the image.
        boxes: x1, y1, x2, y2 in pixels of the original image; `bbox` is x, y, width, height.
        scores: of the detections.
        labels: of the dataset, from 0: indices into `category_ids`.
        category_ids: the source's own id of each class, as in `Dataset.category_ids`.

    >>> boxes, scores = np.float32([[1, 2, 4, 8]]), np.float32([0.5])
    >>> to_coco_detections(42, boxes, scores, np.array([1]), category_ids=(1, 90))
    [{'image_id': 42, 'category_id': 90, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.5}]
    """
    image_id = image_id if isinstance(image_id, str) else int(image_id)
    columns = (np.asarray(labels), to_xywh(boxes), np.asarray(scores))
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}
        for label, bbox, score in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _annotations(images: Sequence[ImageProposals]) -> COCO:
    """Returns pycocotools' index of the annotated boxes."""
    rows = [
        {"image_id": image.image_id, "bbox": bbox, "area": area, "iscrowd": ignore}
        for image in images
        for bbox, area, ignore in zip(
            to_xywh(image.gt_boxes).tolist(),
            np.asarray(image.gt_areas, np.float64).tolist(),
            np.asarray(image.gt_ignore).astype(int).tolist(),
            strict=True,
        )
    ]
    return coco_index([image.image_id for image in images], rows)


def _results(images: Sequence[ImageProposals]) -> COCO:
    """Returns pycocotools' index of the proposals (its `loadRes` refuses an empty list)."""
    rows = [row for image in images for row in to_coco_results(*image[:3])]
    for row in rows:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    return coco_index([image.image_id for image in images], rows)


def coco_index(
    image_ids: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    hw: tuple[int, int] | None = None,
) -> COCO:
    """Returns pycocotools' index of annotations or results, by default of the category 1.

    `hw` is the images' size, which masks need.
    """
    size = dict(zip(("height", "width"), hw or (), strict=False))
    # Ids are from 1 on: pycocotools takes id 0 for "not matched".
    annotations = [{"category_id": 1, **row, "id": i} for i, row in enumerate(rows, start=1)]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id, **size} for image_id in image_ids],
        "categories": [{"id": i} for i in sorted({row["category_id"] for row in annotations})],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
