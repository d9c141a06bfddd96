"""Average precision of VOC: that of 2007 with eleven points, and the area used since 2010.

The formula is py-faster-rcnn's `voc_eval`, in float64:

* A detection looks only at the object of its class that it covers most (on equal IoU the first).
  If another detection has taken that object, it is false; there is no second choice, unlike COCO's.
* An IoU of exactly 0.5 is too little.
* A detection on a difficult object is left out, and difficult objects are not counted.
* There is no limit on the detections of an image.

VOC's files name the first and the last pixel of a box, and `voc_eval` adds 1 to every width. Our
boxes are continuous: the reader has moved the upper left corner by a pixel, so that `x2 - x1` is
that width, and both give the same IoU.

`voc_eval` leaves the order of equal scores to an unstable sort. Here, as in COCO, it is by image
id, then as given.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_IOU_THRESHOLD = 0.5
# Among them 0.30000000000000004: a recall of exactly 0.3 does not reach that point.
_POINTS_2007 = np.arange(0.0, 1.1, 0.1)


class VocPrecision(NamedTuple):
    """Average precision of one class."""

    eleven_points: float
    area: float


def voc_verdicts(
    iou: Float[np.ndarray, "D G"],
    same_class: Bool[np.ndarray, "D G"],
    ignore: Bool[np.ndarray, " G"],
) -> Int[np.ndarray, " D"]:
    """Returns what each detection of an image counts as: 1 found an object, 0 false, -1 left out.

    Args:
        iou: of the detections, those of a class by falling score, with the annotated boxes.
        same_class: whether detection and box are of one class.
        ignore: whether the box is difficult.
    """
    verdicts = np.zeros(len(iou), np.int8)
    if not iou.size:
        return verdicts
    own = np.where(same_class, iou, -1.0)
    best = own.argmax(axis=1)
    is_taken = np.zeros(iou.shape[1], bool)
    for row in np.flatnonzero(own.max(axis=1) > _IOU_THRESHOLD):
        box = best[row]
        if ignore[box]:
            verdicts[row] = -1
        elif not is_taken[box]:
            verdicts[row] = 1
            is_taken[box] = True
    return verdicts


def voc_precision(
    scores: Float[np.ndarray, " D"], verdicts: Int[np.ndarray, " D"], num_objects: int
) -> VocPrecision:
    """Returns the average precision of a class from its detections, by image, over all images.

    `num_objects` must not be 0.
    """
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(verdicts[order] == 1).astype(np.float64)
    false = np.cumsum(verdicts[order] == 0).astype(np.float64)
    recall = found / num_objects
    precision = found / np.maximum(found + false, np.finfo(np.float64).eps)
    return VocPrecision(_eleven_points(recall, precision), _area(recall, precision))


def _eleven_points(recall: Float[np.ndarray, " D"], precision: Float[np.ndarray, " D"]) -> float:
    reached = [precision[recall >= point] for point in _POINTS_2007]
    return float(sum(best.max() / 11 for best in reached if len(best)))


def _area(recall: Float[np.ndarray, " D"], precision: Float[np.ndarray, " D"]) -> float:
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    rises = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[rises + 1] - recall[rises]) * envelope[rises + 1]))
