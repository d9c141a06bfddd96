"""Areas, overlaps and the regression code of boxes.

A box is `x1, y1, x2, y2` in continuous pixels; a box whose width or height is not positive has no
area.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from rpn_jax.typing import Array

Scalar = int | float | np.number | Num[Array, ""]

# A box grows to at most this many times its anchor's side, so that exp never overflows
# (detectron2 and torchvision use the same limit).
MAX_LOG_SCALE = math.log(1000 / 16)


def as_boxes(boxes) -> Float[Array, "*N 4"]:
    """Returns an array as it is, and a list of boxes, which may be empty, as an array."""
    if hasattr(boxes, "dtype"):
        return boxes
    boxes = jnp.asarray(boxes, jnp.float32)
    return boxes if boxes.size else boxes.reshape(0, 4)


def area(boxes: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    """Returns the area of each box, 0 where a side is not positive.

    Args:
        boxes: `x1, y1, x2, y2`.

    >>> area([[0, 0, 10, 20], [5, 5, 5, 9]]).tolist()
    [200.0, 0.0]
    """
    boxes = as_boxes(boxes)
    return _product(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])


def pairwise_iou(a: Float[Array, "M 4"], b: Float[Array, "N 4"]) -> Float[Array, "M N"]:
    """Returns the intersection over union of every box of `a` with every box of `b`.

    Boxes without area, and boxes with a NaN, score 0 against everything, themselves included.

    Args:
        a: boxes, each a row of the result.
        b: boxes, each a column of it.

    >>> pairwise_iou([[0, 0, 10, 10]], [[0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]]).round(3)
    Array([[1.   , 0.333, 0.   ]], dtype=float32)
    """
    return iou(*_against_each_other(a, b))


def pairwise_ioa(a: Float[Array, "M 4"], b: Float[Array, "N 4"]) -> Float[Array, "M N"]:
    """Returns which part of the area of every box of `a` lies inside every box of `b`.

    Boxes without area, and boxes with a NaN, score 0 against everything.

    Args:
        a: boxes, each a row of the result.
        b: boxes, each a column of it.

    >>> pairwise_ioa([[0, 0, 10, 10]], [[5, 0, 45, 10]])
    Array([[0.5]], dtype=float32)
    """
    return ioa(*_against_each_other(a, b))


class BoxColumns(NamedTuple):
    """The coordinates of boxes and their areas, each in an array of its own.

    A vector unit wants neighbours in memory to be neighbours in meaning. What is not a box (without
    area, or with a NaN) is a point in the origin with an area of 1 here: it overlaps nothing, and
    nothing needs to be guarded against division by its area.
    """

    x1: Float[Array, "*N"]
    y1: Float[Array, "*N"]
    x2: Float[Array, "*N"]
    y2: Float[Array, "*N"]
    area: Float[Array, "*N"]


def box_columns(boxes: Float[Array, "*N 4"], valid: Bool[Array, "*N"] | None = None) -> BoxColumns:
    """Returns the columns of boxes, of which those that are not `valid` become points too."""
    boxes = jnp.asarray(as_boxes(boxes))
    areas = area(boxes)
    is_box = areas > 0
    if valid is not None:
        is_box &= valid
    x1, y1, x2, y2 = (jnp.where(is_box, boxes[..., i], 0) for i in range(4))
    return BoxColumns(x1, y1, x2, y2, jnp.where(is_box, areas, 1))


def iou(a: BoxColumns, b: BoxColumns) -> Float[Array, "*N"]:
    """Returns the intersection over union of boxes whose columns broadcast against each other.

    Wherever in a program it is computed, the same two boxes have the same IoU to the bit.
    """
    intersection = _intersection(a, b)
    return intersection / (a.area + b.area - intersection)


def ioa(a: BoxColumns, b: BoxColumns) -> Float[Array, "*N"]:
    """Returns the intersection over the area of `a`; see `iou`."""
    return _intersection(a, b) / a.area


def encode_boxes(
    anchors: Float[Array, "*N 4"],
    gt_boxes: Float[Array, "*N 4"],
    weights: Sequence[float | int] = (1, 1, 1, 1),
) -> Float[Array, "*N 4"]:
    """Returns the deltas `tx, ty, tw, th` that turn each anchor into its ground-truth box.

    Section 3.1.2 of the paper, equation 2: shifts of the centre in units of the anchor's sides,
    and the logarithms of the ratios of the sides; each is then multiplied by its weight. A side
    that is not positive counts as 1 pixel, so that a padded row gives finite deltas and gradients.

    Args:
        anchors: the boxes to start from.
        gt_boxes: where each of them should go.
        weights: multiply tx, ty, tw and th.

    >>> encode_boxes([[0, 0, 10, 10]], [[5, 0, 15, 20]]).round(3)  # tw 0, th log 2
    Array([[0.5  , 0.5  , 0.   , 0.693]], dtype=float32)
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

    Args:
        anchors: the boxes to start from.
        deltas: `tx, ty, tw, th` of each.
        weights: those the deltas were encoded with.
        max_log_scale: `tw` and `th`, after division by their weights, are cut off at it.

    >>> decode_boxes([[0, 0, 10, 10]], [[0.5, 0, 0, 0]])
    Array([[ 5.,  0., 15., 10.]], dtype=float32)
    """
    deltas = as_boxes(deltas)
    centres, sides = _centres_and_sides(anchors)
    deltas = deltas / _like_rows(weights, deltas)
    centres = centres + deltas[..., :2] * sides
    half_sides = 0.5 * sides * jnp.exp(jnp.minimum(deltas[..., 2:], max_log_scale))
    return jnp.concatenate([centres - half_sides, centres + half_sides], axis=-1)


def clip_boxes(boxes: Float[Array, "*N 4"], height: Scalar, width: Scalar) -> Float[Array, "*N 4"]:
    """Returns the boxes cut off at the borders of an image of `height` x `width` pixels.

    A box that lies wholly outside comes back without area, on the border.

    Args:
        boxes: `x1, y1, x2, y2`.
        height: of the image, in pixels.
        width: of the image, in pixels.

    >>> clip_boxes([[-5, 2, 30, 8]], height=10, width=20)
    Array([[ 0.,  2., 20.,  8.]], dtype=float32)
    """
    boxes = as_boxes(boxes)
    upper = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    return jnp.clip(boxes, 0, _like_rows(upper, boxes))


def _against_each_other(a: Array, b: Array) -> tuple[BoxColumns, BoxColumns]:
    rows = (column[:, None] for column in box_columns(a))
    columns = (column[None, :] for column in box_columns(b))
    return BoxColumns(*rows), BoxColumns(*columns)


def _intersection(a: BoxColumns, b: BoxColumns) -> Float[Array, "*N"]:
    width = _lower(a.x2, b.x2) - _higher(a.x1, b.x1)
    height = _lower(a.y2, b.y2) - _higher(a.y1, b.y1)
    return _product(width, height)


def _product(width: Array, height: Array) -> Array:
    """Returns `width * height`, or 0 where one of them is not positive.

    The maximum comes last, so that no product is an operand of a sum: a compiler joins the two into
    one instruction that rounds once, in some loops and not in others, and boxes whose overlaps
    are compared for equality would differ from themselves.
    """
    return _higher(_higher(width, 0) * height, 0)


# One instruction each on a CPU. `jnp.minimum` and `jnp.maximum` take five, to pass a NaN on.
def _lower(a: Array, b: Array) -> Array:
    return jnp.where(a < b, a, b)


def _higher(a: Array, b: Array | int) -> Array:
    return jnp.where(a > b, a, b)


def _centres_and_sides(
    boxes: Float[Array, "*N 4"],
) -> tuple[Float[Array, "*N 2"], Float[Array, "*N 2"]]:
    boxes = as_boxes(boxes)
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides


def _like_rows(values: Sequence[float | int] | Array, rows: Array) -> Array:
    """Broadcasts 4 values to the rows of an (…, 4) array (rank promotion is an error here)."""
    return jnp.broadcast_to(jnp.asarray(values, rows.dtype), rows.shape)
