"""Average precision and recall of COCO, by pycocotools itself.

`coco_matches` matches one image, so that processes can share a split's images; `coco_curves` puts
together what all images gave. Both run pycocotools' own code, so the figures are those of
pycocotools over the whole split, to the last digit.

Axes: D  detections    G  annotated boxes    C  classes    A  size ranges    T  IoU thresholds
      R  recall points, 0 to 1 by 0.01
"""

import contextlib
import io
from typing import NamedTuple

import numpy as np
import pycocotools.mask
from jaxtyping import Bool, Float, Int
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rpn_jax.data.masks import as_runs
from rpn_jax.evaluation.coco import coco_index
from rpn_jax.evaluation.detections import ImageDetections
from rpn_jax.evaluation.matching import IOU_THRESHOLDS, to_xywh
from rpn_jax.evaluation.recall import SIZE_RANGES

MAX_DETECTIONS = 100  # per image and class, as in COCO's figures


class CocoMatches(NamedTuple):
    """COCO's matching of an image; for the fields see `DetectionMatches`.

    `gt_found[g]` is True if a detection is matched to the box at the lowest threshold, 0.5.
    """

    hit: Bool[np.ndarray, "D A T"]
    ignored: Bool[np.ndarray, "D A T"]
    gt_counts: Bool[np.ndarray, "G A"]
    gt_found: Bool[np.ndarray, " G"]


class CocoCurves(NamedTuple):
    """Precision at each recall point, and the recall reached; NaN for a class without objects."""

    precision: Float[np.ndarray, "C A T R"]
    recall: Float[np.ndarray, "C A T"]


def coco_matches(image: ImageDetections, *, of_masks: bool = False) -> CocoMatches:
    """Returns the matching of one image, whose detections are `detections.in_order`.

    It is by boxes, or with `of_masks` by masks, where each annotated object has one.
    Detections beyond the hundred best of a class are ignored. Ignored boxes become crowds, the only
    flag that pycocotools heeds.
    """
    crowds, areas = image.gt_ignore.astype(int), image.gt_areas.astype(np.float64)
    own_areas = np.prod(to_xywh(image.boxes)[:, 2:], axis=1)
    found, objects = {}, {}
    if of_masks:
        runs, gt_runs = runs_of(image)
        found, objects = {"segmentation": runs}, {"segmentation": gt_runs}
        own_areas = np.array([pycocotools.mask.area(each) for each in runs], np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = _index(
            image.hw, image.gt_boxes, image.gt_labels, iscrowd=crowds, area=areas, **objects
        )
        detected = _index(
            image.hw, image.boxes, image.labels, score=image.scores, area=own_areas, **found
        )
        evaluation = COCOeval(annotated, detected, iouType="segm" if of_masks else "bbox")
        evaluation.params.catIds = np.union1d(image.labels, image.gt_labels).tolist()
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng = [list(limits) for limits in SIZE_RANGES.values()]
        evaluation.evaluate()
    A, T, D, G = len(SIZE_RANGES), len(IOU_THRESHOLDS), len(image.boxes), len(image.gt_boxes)
    matches = CocoMatches(
        np.zeros((D, A, T), bool),
        np.ones((D, A, T), bool),
        np.zeros((G, A), bool),
        np.zeros(G, bool),
    )
    for entry in filter(None, evaluation.evalImgs):  # one per class and size range
        a = evaluation.params.areaRng.index(entry["aRng"])
        rows, gt_rows = (np.array(entry[ids], int) - 1 for ids in ("dtIds", "gtIds"))
        matches.hit[rows, a] = (entry["dtMatches"] > 0).T
        matches.ignored[rows, a] = entry["dtIgnore"].T
        matches.gt_counts[gt_rows, a] = entry["gtIgnore"] == 0
        if a == 0:
            matches.gt_found[gt_rows] = entry["gtMatches"][0] > 0
    return matches


def runs_of(image: ImageDetections) -> tuple[list[dict], list[dict]]:
    """Returns the masks of an image's detections and of its objects, as pycocotools takes them."""
    assert image.hw is not None
    assert image.masks is not None
    assert image.gt_masks is not None
    runs, gt_runs = (
        [as_runs(counts, *image.hw) for counts in masks] for masks in (image.masks, image.gt_masks)
    )
    return runs, gt_runs


def _index(
    hw: tuple[int, int] | None,
    boxes: Float[np.ndarray, "D 4"],
    labels: Int[np.ndarray, " D"],
    **further: np.ndarray | list[dict],
) -> COCO:
    """Returns pycocotools' index of an image's boxes, with what else there is of each."""
    columns = {"category_id": labels, "bbox": to_xywh(boxes), **further}
    lists = (c.tolist() if isinstance(c, np.ndarray) else c for c in columns.values())
    rows = zip(*lists, strict=True)
    return coco_index(
        [0], [{"image_id": 0, **dict(zip(columns, row, strict=True))} for row in rows], hw
    )


def coco_curves(
    labels: Int[np.ndarray, " D"],
    scores: Float[np.ndarray, " D"],
    hit: Bool[np.ndarray, "D A T"],
    ignored: Bool[np.ndarray, "D A T"],
    num_objects: Int[np.ndarray, "C A"],
) -> CocoCurves:
    """Returns the curves of each class from the matched detections of all images.

    Detections come by image id, those of an image and class by falling score: equal scores keep
    this order.
    """
    A, T = hit.shape[1:]
    evaluation = COCOeval(iouType="bbox")
    params = evaluation.params
    params.imgIds = [0]  # all images as one
    params.catIds = list(range(len(num_objects)))
    params.areaRng = [[a, a] for a in range(A)]
    params.iouThrs = np.zeros(T)  # only their number is used
    params.maxDets = [len(labels)]
    evaluation._paramsEval = params
    by_class = [np.flatnonzero(labels == c) for c in params.catIds]
    evaluation.evalImgs = [
        {
            "dtScores": scores[rows],
            "dtMatches": hit[rows, a].T,
            "dtIgnore": ignored[rows, a].T,
            "gtIgnore": np.zeros(objects[a]),
        }
        for rows, objects in zip(by_class, num_objects, strict=True)
        for a in range(A)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0].transpose(2, 3, 0, 1)
    recall = evaluation.eval["recall"][..., 0].transpose(1, 2, 0)
    return CocoCurves(*(np.where(curve < 0, np.nan, curve) for curve in (precision, recall)))
