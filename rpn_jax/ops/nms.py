"""Non-maximum suppression: the greedy kind, exactly.

Greedy NMS keeps a box if no kept box of a higher score overlaps it. How that is computed on an
accelerator and on a CPU is in `suppression`.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int

from rpn_jax.ops.boxes import as_boxes
from rpn_jax.ops.selection import top_k
from rpn_jax.ops.suppression import suppress
from rpn_jax.typing import Array


def nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    iou_threshold: float | int,
    max_outputs: int,
    valid: Bool[Array, " N"] | None = None,
) -> tuple[Int[Array, " P"], Bool[Array, " P"]]:
    """Returns the boxes that greedy non-maximum suppression keeps, by falling score.

    Of two boxes whose IoU is above the threshold only that of the higher score stays; of equal
    scores the one of the lower index comes first. Boxes without area neither suppress nor are
    suppressed. Nothing is differentiated: what comes out is an index.

    Args:
        boxes: candidates, in any order.
        scores: one per box; a box whose score is NaN or -inf is not a candidate.
        iou_threshold: the highest IoU that two kept boxes may have.
        max_outputs: P, how many boxes to return; the best are.
        valid: which boxes are candidates (all by default).

    Returns:
        Indices into `boxes`, padded with 0 to `max_outputs`, and which of them are not padding.

    Raises:
        ValueError: the threshold is not between 0 and 1.

    >>> boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]]
    >>> index, kept = nms(boxes, [0.8, 0.9, 0.3], iou_threshold=0.5, max_outputs=3)
    >>> index[kept].tolist()  # 0 and 1 overlap by 9/11
    [1, 2]
    """
    return _sort_and_suppress(boxes, scores, None, iou_threshold, max_outputs, valid)


def batched_nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    group: Int[Array, " N"],
    iou_threshold: float | int,
    max_outputs: int,
    valid: Bool[Array, " N"] | None = None,
) -> tuple[Int[Array, " P"], Bool[Array, " P"]]:
    """Like `nms`, but boxes of different groups (levels, classes) never suppress each other.

    The groups compete for the `max_outputs` places. They are compared as such; moving each group's
    boxes far from the others', as torchvision and detectron2 do, costs bits of the coordinates.

    Args:
        boxes: candidates, in any order.
        scores: one per box.
        group: the number of each box's group.
        iou_threshold: the highest IoU that two kept boxes of a group may have.
        max_outputs: P, how many boxes to return; the best are.
        valid: which boxes are candidates (all by default).

    >>> boxes = [[0, 0, 10, 10], [1, 0, 11, 10]]
    >>> index, kept = batched_nms(boxes, [0.8, 0.9], [0, 1], iou_threshold=0.5, max_outputs=2)
    >>> index[kept].tolist()
    [1, 0]
    """
    return _sort_and_suppress(boxes, scores, group, iou_threshold, max_outputs, valid)


def _sort_and_suppress(boxes, scores, group, iou_threshold, max_outputs, valid):
    boxes, scores = lax.stop_gradient((jnp.asarray(as_boxes(boxes)), jnp.asarray(scores)))
    is_candidate = scores > -jnp.inf
    if valid is not None:
        is_candidate &= jnp.asarray(valid)
    _, order = top_k(jnp.where(is_candidate, scores, -jnp.inf), len(scores))
    group = None if group is None else jnp.asarray(group)[order]
    place, kept = sorted_nms(
        boxes[order], is_candidate[order], iou_threshold, max_outputs, group=group
    )
    if not len(order):
        return place, kept
    return jnp.where(kept, order[place], 0), kept


def sorted_nms(
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, " N"],
    iou_threshold: float | int,
    max_outputs: int,
    group: Int[Array, " N"] | None = None,
) -> tuple[Int[Array, " P"], Bool[Array, " P"]]:
    """Like `nms` and (with groups) `batched_nms`, of boxes that stand by falling score already."""
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold {iou_threshold} is not between 0 and 1")
    places = min(max_outputs, len(valid))
    if not places:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
    kept, num_kept = suppress(boxes, valid, group, iou_threshold=iou_threshold, places=places)
    kept = jnp.pad(kept, (0, max_outputs - places))
    return kept, jnp.arange(max_outputs) < num_kept
