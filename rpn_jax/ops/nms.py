"""Non-maximum suppression: exactly the greedy kind, without a loop over the boxes.

Greedy NMS keeps a box if no kept box of a higher score overlaps it. That is a recursion along the
sorted boxes; but `keep = ~any(suppresses & keep)`, iterated from "keep all", reaches its only fixed
point after as many rounds as the longest chain of suppressions has links, usually a handful.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from rpn_jax.ops.boxes import pairwise_iou
from rpn_jax.typing import Array

# Boxes that enter the fixed point together. It bounds the memory, and with it the boxes are read
# in order of score, so that the search ends when enough are kept.
_BLOCK = 512


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
    """
    group = jnp.zeros(scores.shape, jnp.int32)
    return batched_nms(boxes, scores, group, iou_threshold, max_outputs, valid)


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
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold {iou_threshold} is not between 0 and 1")
    num_boxes = scores.shape[0]
    if num_boxes == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    valid = (scores > -jnp.inf) if valid is None else valid & (scores > -jnp.inf)
    num_valid = jnp.sum(valid)

    block = min(_BLOCK, num_boxes)
    padding = -num_boxes % block
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    boxes = jnp.pad(jnp.asarray(boxes)[order], ((0, padding), (0, 0)))
    group = jnp.pad(jnp.asarray(group)[order], (0, padding))
    slot = jnp.arange(max_outputs)

    def suppresses(i, j):
        same_group = group[i][:, None] == group[j][None, :]
        return (pairwise_iou(boxes[i], boxes[j]) > iou_threshold) & same_group

    def unfinished(state):
        start, _, num_kept = state
        return (start < num_valid) & (num_kept < max_outputs)

    def add_block(state):
        start, kept, num_kept = state
        new = start + jnp.arange(block)
        by_kept = suppresses(kept, new) & (slot < num_kept)[:, None]
        candidates = (new < num_valid) & ~jnp.any(by_kept, axis=0)
        keep = _survivors(suppresses(new, new) & (new[:, None] < new[None, :]), candidates)
        place = jnp.where(keep, num_kept + jnp.cumsum(keep) - 1, max_outputs)
        kept = kept.at[place].set(new, mode="drop")
        return start + block, kept, jnp.minimum(num_kept + jnp.sum(keep), max_outputs)

    start, kept = jnp.zeros((), jnp.int32), jnp.zeros(max_outputs, jnp.int32)
    _, kept, num_kept = jax.lax.while_loop(unfinished, add_block, (start, kept, start))
    keep = slot < num_kept
    return jnp.where(keep, order[kept], 0), keep


def _survivors(suppresses: Bool[Array, "N N"], candidates: Bool[Array, " N"]) -> Bool[Array, " N"]:
    """Returns the candidates that no surviving candidate suppresses.

    `suppresses[i, j]` is False unless `i < j`: so the first candidate is right after one round,
    and a box is right one round after those that could suppress it.
    """

    def prune(state):
        keep, _ = state
        pruned = candidates & ~jnp.any(suppresses & keep[:, None], axis=0)
        return pruned, jnp.any(pruned != keep)

    survivors, _ = jax.lax.while_loop(lambda state: state[1], prune, (candidates, jnp.array(True)))
    return survivors
