"""The anchors of a feature map: K shapes, repeated at each of its positions.

`aspect_ratio` is width / height and `size` the square root of the area, in pixels of the image
that enters the network. torchvision, detectron2 and py-faster-rcnn call height / width "ratio".
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from rpn_jax.ops.boxes import Scalar, as_boxes
from rpn_jax.typing import Array

_CAFFE_BASE = 16


def cell_anchors(
    sizes: Sequence[float | int] = (128, 256, 512),
    aspect_ratios: Sequence[float | int] = (0.5, 1, 2),
    rounding: str = "none",
) -> Float[np.ndarray, "K 4"]:
    """Returns the K = ratios x sizes anchors of one position, centred on the origin.

    The ratio is the outer loop and the size the inner one, each in the order given. A NumPy array:
    the shapes are constants of a program.

    Args:
        sizes: square roots of the areas, in pixels.
        aspect_ratios: widths over heights.
        rounding: "none" keeps the exact sides, `size * sqrt(ratio)` and `size / sqrt(ratio)`.
            "torchvision" rounds the four coordinates to integers, halves to even, as its
            `AnchorGenerator` does; its grid begins in the corner of the image (`offset=0`).
            "caffe" rounds the sides as `generate_anchors` of py-faster-rcnn does: those of a box
            of area 16 x 16 and the given ratio are rounded and then scaled by `size / 16`. There a
            box runs from its first pixel to its last, so that the continuous box has `x2 + 1` and
            `y2 + 1`, and a box round a cell's pixels 0..15 is centred on 8: `grid_anchors` with
            `offset=0.5`, at stride 16, less 1 in x2 and y2, is py-faster-rcnn's table
            (-84, -40, 99, 55 and so on) when the ratios are given as (2, 1, 0.5).

    Raises:
        ValueError: a size or ratio is not positive, or `rounding` is none of the three.

    >>> cell_anchors(sizes=(16,), aspect_ratios=(1, 4)).tolist()
    [[-8.0, -8.0, 8.0, 8.0], [-16.0, -4.0, 16.0, 4.0]]
    """
    size = np.asarray(sizes, np.float64)[None, :]
    ratio = np.asarray(aspect_ratios, np.float64)[:, None]
    if not (size.size and ratio.size and (size > 0).all() and (ratio > 0).all()):
        raise ValueError(f"sizes {sizes} and aspect_ratios {aspect_ratios} must be positive")
    if rounding not in ("none", "torchvision", "caffe"):
        raise ValueError(f"rounding {rounding!r} is not 'none', 'torchvision' or 'caffe'")

    if rounding == "caffe":
        base_width = np.round(_CAFFE_BASE * np.sqrt(ratio))
        base_height = np.round(base_width / ratio)
        width, height = base_width * size / _CAFFE_BASE, base_height * size / _CAFFE_BASE
    else:
        width, height = size * np.sqrt(ratio), size / np.sqrt(ratio)
    cells = np.stack([-width, -height, width, height], axis=-1).reshape(-1, 4) / 2
    if rounding == "torchvision":
        cells = np.round(cells)
    return cells.astype(np.float32)


def grid_anchors(
    cells: Float[Array, "K 4"],
    grid_hw: tuple[int, int],
    stride_hw: tuple[float | int, float | int],
    offset: float | int = 0.5,
) -> Float[Array, "A 4"]:
    """Returns the anchors of a whole feature map, A = H·W·K of them, by row, column and shape.

    Args:
        cells: the shapes round the origin, from `cell_anchors`.
        grid_hw: rows and columns of the feature map.
        stride_hw: pixels of the image from one row, and from one column, to the next.
        offset: where in its cell an anchor is centred, in strides: 0.5 is the middle of the cell,
            0 its upper left corner.

    >>> grid_anchors(cell_anchors((16,), (1,)), grid_hw=(1, 2), stride_hw=(16, 16)).tolist()
    [[0.0, 0.0, 16.0, 16.0], [16.0, 0.0, 32.0, 16.0]]
    """
    y, x = (
        (jnp.arange(count, dtype=jnp.float32) + offset) * stride
        for count, stride in zip(grid_hw, stride_hw, strict=True)
    )
    y, x = jnp.meshgrid(y, x, indexing="ij")
    centres = jnp.stack([x, y, x, y], axis=-1)
    return (centres[:, :, None, :] + jnp.asarray(as_boxes(cells))[None, None]).reshape(-1, 4)


def inside_image(
    anchors: Float[Array, "A 4"], height: Scalar, width: Scalar, tolerance: Scalar = 0.0
) -> Bool[Array, " A"]:
    """Returns True where an anchor crosses the border of the image by at most `tolerance` pixels.

    Section 3.1.3 of the paper leaves the others out of the training. (py-faster-rcnn's strict
    `x2 < width` is about the last pixel and the same as `x2 <= width` here.)

    Args:
        anchors: of an image.
        height: of the image, in pixels.
        width: of the image, in pixels.
        tolerance: in pixels.

    >>> inside_image([[0, 0, 16, 16], [-1, 0, 15, 16]], height=16, width=16).tolist()
    [True, False]
    """
    anchors = as_boxes(anchors)
    x1, y1, x2, y2 = (anchors[:, i] for i in range(4))
    return (
        (x1 >= -tolerance)
        & (y1 >= -tolerance)
        & (x2 <= width + tolerance)
        & (y2 <= height + tolerance)
    )


def centred_in_image(
    anchors: Float[Array, "A 4"], height: Scalar, width: Scalar
) -> Bool[Array, " A"]:
    """Returns which anchors have their centre in the image or on its border.

    The others stand on the padding of the canvas that a batch shares, where nothing was annotated.

    Args:
        anchors: of a canvas.
        height: of the image at its top left, in pixels.
        width: of that image, in pixels.

    >>> centred_in_image([[0, 0, 16, 16], [16, 0, 32, 16]], height=16, width=20).tolist()
    [True, False]
    """
    anchors = as_boxes(anchors)
    x = 0.5 * (anchors[:, 0] + anchors[:, 2])
    y = 0.5 * (anchors[:, 1] + anchors[:, 3])
    return (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
