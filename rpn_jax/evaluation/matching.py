"""COCO's greedy matching of boxes to annotated objects, at ten IoU thresholds at once.

Axes: S  size ranges    T  IoU thresholds (`IOU_THRESHOLDS`)    P  boxes found    G  annotated boxes
"""

import numpy as np
from jaxtyping import Bool, Float, Integer
from pycocotools import mask as coco_mask

from rpn_jax.typing import Array

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # as pycocotools spells them, to the last bit


def match_ranks(
    iou: Float[np.ndarray, "P G"], objects: Bool[np.ndarray, "S G"]
) -> Integer[np.ndarray, "S T G"]:
    """Returns the rank (0 = best score) of the proposal that COCO matches to each object.

    Rows of `iou` are by falling score; `objects[s]` is True where a box counts in size range s.
    An unmatched object has a rank beyond any top N (int64's largest).

    The matching is greedy: proposals after the N-th do not change the matches of the first N, so
    one pass serves every top N.
    """
    unmatched = np.iinfo(np.int64).max
    free = np.repeat(objects[:, None, :], len(IOU_THRESHOLDS), axis=1)
    ranks = np.full(free.shape, unmatched)
    # Columns in no size range and rows below every threshold are skipped: a few hundred of the top
    # 1000 remain. The loop below is all that evaluation costs.
    reaches = (iou >= IOU_THRESHOLDS[0]) & objects.any(axis=0)[None, :]
    for rank in np.flatnonzero(reaches.any(axis=1)):
        eligible = free & (iou[rank] >= IOU_THRESHOLDS[:, None])
        # COCO takes the last of equals, argmax the first: hence the reversed view.
        best = np.where(eligible, iou[rank], -1.0)[..., ::-1].argmax(axis=-1)
        s, t = np.nonzero(eligible.any(axis=-1))
        g = iou.shape[1] - 1 - best[s, t]
        ranks[s, t, g] = rank
        free[s, t, g] = False
    return ranks


def pairwise_iou(
    boxes: Float[Array, "P 4"], gt_boxes: Float[Array, "G 4"]
) -> Float[np.ndarray, "P G"]:
    """Returns the IoU of xyxy boxes in float64, computed by pycocotools itself.

    The last bit decides ties and thresholds, so `ops.boxes.pairwise_iou` (float32) is not used.
    """
    if not len(boxes) or not len(gt_boxes):
        return np.zeros((len(boxes), len(gt_boxes)))
    return coco_mask.iou(to_xywh(boxes), to_xywh(gt_boxes), [0] * len(gt_boxes))


def to_xywh(boxes: Float[Array, "P 4"]) -> Float[np.ndarray, "P 4"]:
    """Returns xyxy boxes in float64 as COCO writes them: corner, then width and height."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
