"""Areas, overlaps and the regression code of boxes.

A box is `x1, y1, x2, y2` in continuous pixels; a box whose width or height is not positive has no
area.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from rpn_jax.typing import Array

Scalar = int | float | np.number | Num[Array, ""]

# A box grows to at most this many times its anchor's side, so that exp never overflows
# (detectron2 and torchvision use the same limit).
MAX_LOG_SCALE = math.log(1000 / 16)


def area(boxes: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    """Returns the area of each box, 0 where a side is not positive."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(a: Float[Array, "M 4"], b: Float[Array, "N 4"]) -> Float[Array, "M N"]:
    """Returns the intersection over union of every box of `a` with every box of `b`.

    Boxes without area, and boxes with a NaN, score 0 against everything, themselves included.
    """
    intersection = _pairwise_intersection(a, b)
    return _ratio(intersection, area(a)[:, None] + area(b)[None, :] - intersection)


def pairwise_ioa(a: Float[Array, "M 4"], b: Float[Array, "N 4"]) -> Float[Array, "M N"]:
    """Returns which part of the area of every box of `a` lies inside every box of `b`.

    Boxes without area, and boxes with a NaN, score 0 against everything.
    """
    intersection = _pairwise_intersection(a, b)
    return _ratio(intersection, jnp.broadcast_to(area(a)[:, None], intersection.shape))


def encode_boxes(
    anchors: Float[Array, "*N 4"],
    gt_boxes: Float[Array, "*N 4"],
    weights: Sequence[float | int] = (1, 1, 1, 1),
) -> Float[Array, "*N 4"]:
    """Returns the deltas `tx, ty, tw, th` that turn each anchor into its ground-truth box.

    Section 3.1.2 of the paper, equation 2: shifts of the centre in units of the anchor's sides,
    and the logarithms of the ratios of the sides; each is then multiplied by its weight. A side
    that is not positive counts as 1 pixel, so that a padded row gives finite deltas and gradients.
    """
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    gt_centres, gt_sides = _centres_and_sides(gt_boxes)
    anchor_sides = jnp.where(anchor_sides > 0, anchor_sides, 1)
    gt_sides = jnp.where(gt_sides > 0, gt_sides, 1)
    shifts = (gt_centres - anchor_centres) / anchor_sides
    deltas = jnp.concatenate([shifts, jnp.log(gt_sides / anchor_sides)], axis=-1)
    return deltas * _like_rows(weights, deltas)


def decode_boxes(
    anchors: Float[Array, "*N 4"],
    deltas: Float[Array, "*N 4"],
    weights: Sequence[float | int] = (1, 1, 1, 1),
    max_log_scale: float = MAX_LOG_SCALE,
) -> Float[Array, "*N 4"]:
    """Returns the boxes that the deltas make of their anchors: the inverse of `encode_boxes`.

    `tw` and `th`, after division by their weights, are cut off at `max_log_scale`.
    """
    centres, sides = _centres_and_sides(anchors)
    deltas = deltas / _like_rows(weights, deltas)
    centres = centres + deltas[..., :2] * sides
    half_sides = 0.5 * sides * jnp.exp(jnp.minimum(deltas[..., 2:], max_log_scale))
    return jnp.concatenate([centres - half_sides, centres + half_sides], axis=-1)


def clip_boxes(boxes: Float[Array, "*N 4"], height: Scalar, width: Scalar) -> Float[Array, "*N 4"]:
    """Returns the boxes cut off at the borders of an image of `height` x `width` pixels.

    A box that lies wholly outside comes back without area, on the border.
    """
    upper = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    return jnp.clip(boxes, 0, _like_rows(upper, boxes))


def _pairwise_intersection(a: Float[Array, "M 4"], b: Float[Array, "N 4"]) -> Float[Array, "M N"]:
    # One coordinate at a time: an (M, N, 2) array would have a minor axis of 2, which neither a
    # CPU's nor a TPU's vector unit can fill.
    ax1, ay1, ax2, ay2 = (a[:, i][:, None] for i in range(4))
    bx1, by1, bx2, by2 = (b[:, i][None, :] for i in range(4))
    width = jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1)
    height = jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1)
    return jnp.maximum(width, 0) * jnp.maximum(height, 0)


def _ratio(part: Float[Array, "M N"], whole: Float[Array, "M N"]) -> Float[Array, "M N"]:
    # The operand is guarded too: `where` on the result alone leaves a NaN in the gradient of 0/0.
    return jnp.where(part > 0, part / jnp.where(part > 0, whole, 1), 0)


def _centres_and_sides(
    boxes: Float[Array, "*N 4"],
) -> tuple[Float[Array, "*N 2"], Float[Array, "*N 2"]]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides


def _like_rows(values: Sequence[float | int] | Array, rows: Array) -> Array:
    """Broadcasts 4 values to the rows of an (…, 4) array (rank promotion is an error here)."""
    return jnp.broadcast_to(jnp.asarray(values, rows.dtype), rows.shape)
