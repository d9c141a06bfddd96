"""Features of regions of interest: RoIAlign, RoIPool, and the pyramid level of each region.

    R  regions, boxes in pixels of the image        C  channels
    h, w  bins of a region, the `size` of the result

RoIAlign (He et al., "Mask R-CNN", arXiv 1703.06870) averages bilinear samples of each bin. Its
borders are those of Detectron and torchvision: a sample more than one cell outside the map is 0,
any other is moved to the nearest cell centre. RoIPool (Girshick, "Fast R-CNN", arXiv 1504.08083)
takes the maximum of each bin, with the roundings of Caffe.

All functions are of one image. The gradient is that of the features; that of the boxes is 0, but
for RoIAlign with `box_gradient`. A box with a NaN gives zeros. How the sums and maxima are computed
is in `roi_sums` and `roi_maxima`.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from rpn_jax.ops.boxes import area, as_boxes
from rpn_jax.ops.roi_maxima import Bins, max_of_bins
from rpn_jax.ops.roi_sums import Samples, sum_of_samples
from rpn_jax.typing import Array

# Far beyond every map, and small enough for products with a number of bins in 32 bits.
_FARTHEST_CELL = 2**20


def roi_align(
    features: Float[Array, "H W C"],
    boxes: Float[Array, "R 4"],
    *,
    size: int | tuple[int, int],
    scale: float | int,
    sampling_ratio: int = 2,
    aligned: bool = False,
    max_samples: int = 8,
    box_gradient: bool = False,
) -> Float[Array, "R h w C"]:
    """Returns the mean of bilinear samples in each bin of each box.

    Args:
        features: one feature map.
        boxes: in pixels of the image.
        size: how many bins a box has: h and w, or one number for both.
        scale: cells of the map in a pixel, 1 / stride.
        sampling_ratio: samples of a bin along each axis. 0: as many as the bin has cells, rounded
            up, for each box and axis on its own.
        aligned: whether cell centres lie at half a cell, as pixels' do. If not, they lie at whole
            cells, and a box is at least one cell wide and high.
        max_samples: the bound of the samples of a bin and axis where `sampling_ratio` is 0. A bin
            of more cells has so many samples, evenly spaced.
        box_gradient: whether the result has a gradient by the boxes too. Where it turns a corner,
            at cell centres, that is the slope of one side; the number of samples, the samples
            outside the map and the level of a box are taken as they are.

    Raises:
        ValueError: `size`, `sampling_ratio` or `max_samples` is too small.

    >>> features = jnp.arange(16.0).reshape(4, 4, 1)  # 4 * y + x
    >>> roi_align(features, [[0, 0, 32, 32]], size=1, scale=1 / 16)[0, 0, 0]
    Array([5.], dtype=float32)
    """
    levels, boxes = (jnp.asarray(features),), jnp.asarray(as_boxes(boxes))
    level = jnp.zeros(len(boxes), jnp.int32)
    options = _pair(size), (scale,), sampling_ratio, aligned, max_samples, box_gradient
    return _align(levels, boxes, level, *options)


def pyramid_roi_align(
    levels: Sequence[Float[Array, "_ _ C"]],
    boxes: Float[Array, "R 4"],
    *,
    size: int | tuple[int, int],
    strides: Sequence[int | float],
    sampling_ratio: int = 2,
    aligned: bool = False,
    max_samples: int = 8,
    canonical_size: float | int = 224,
    canonical_level: int = 4,
    eps: float | int = 1e-6,
    box_gradient: bool = False,
) -> Float[Array, "R h w C"]:
    """Returns what `roi_align` does, each box from the level that `assign_levels` says.

    Args:
        levels: feature maps of one image, finest first.
        boxes: in pixels of the image.
        size: how many bins a box has: h and w, or one number for both.
        strides: of each level, in pixels: 2 to the power of its number.
        sampling_ratio: see `roi_align`.
        aligned: see `roi_align`.
        max_samples: see `roi_align`.
        canonical_size: see `assign_levels`.
        canonical_level: see `assign_levels`.
        eps: see `assign_levels`.
        box_gradient: see `roi_align`.

    Raises:
        ValueError: there is not one stride for each level, or see `roi_align`.

    >>> levels = [jnp.full((16, 16, 1), 4.0), jnp.full((8, 8, 1), 8.0)]
    >>> boxes = [[0, 0, 20, 20], [0, 0, 56, 56], [0, 0, 64, 64]]
    >>> pyramid_roi_align(levels, boxes, size=1, strides=(4, 8), canonical_size=128)[:, 0, 0, 0]
    Array([4., 4., 8.], dtype=float32)
    """
    if len(levels) != len(strides):
        raise ValueError(f"{len(levels)} levels have {len(strides)} strides")
    boxes = jnp.asarray(as_boxes(boxes))
    min_level = round(math.log2(strides[0]))
    level = assign_levels(
        boxes,
        min_level=min_level,
        max_level=min_level + len(levels) - 1,
        canonical_size=canonical_size,
        canonical_level=canonical_level,
        eps=eps,
    )
    levels = tuple(jnp.asarray(features) for features in levels)
    scales = tuple(1 / stride for stride in strides)
    options = _pair(size), scales, sampling_ratio, aligned, max_samples, box_gradient
    return _align(levels, boxes, level, *options)


def assign_levels(
    boxes: Float[Array, "R 4"],
    *,
    min_level: int = 2,
    max_level: int = 5,
    canonical_size: float | int = 224,
    canonical_level: int = 4,
    eps: float | int = 1e-6,
) -> Int[Array, " R"]:
    """Returns the pyramid level of each box: 0 is the finest, `min_level`.

    Equation 1 of Lin et al., "Feature Pyramid Networks", arXiv 1612.03144: the level is
    `canonical_level + log2(side / canonical_size)`, rounded down, where the side is the square root
    of the area. A box without area, or with a NaN, belongs to the finest level.

    Args:
        boxes: in pixels of the image.
        min_level: number of the finest level; its stride is 2 to that power.
        max_level: number of the coarsest.
        canonical_size: side of the boxes with which `canonical_level` begins.
        canonical_level: number of their level.
        eps: added to the logarithm, so that a box that is a rounding error too small for a level
            belongs to it (torchvision's way).

    >>> assign_levels([[0, 0, 50, 50], [0, 0, 112, 112], [0, 0, 224, 224], [0, 0, 999, 999]])
    Array([0, 1, 2, 3], dtype=int32)
    """
    if max_level == min_level:
        # An empty array of thresholds is a constant on which jaxlib 0.11.2 crashes (SIGSEGV in
        # Shardy), in a program for several devices.
        return jnp.zeros(len(boxes), jnp.int32)
    side = jnp.sqrt(area(boxes))
    numbers = np.arange(min_level + 1, max_level + 1) - canonical_level
    least = jnp.asarray(canonical_size * 2.0 ** (numbers - eps), jnp.float32)
    return jnp.sum(side[:, None] >= least[None, :], axis=1, dtype=jnp.int32)


def roi_pool(
    features: Float[Array, "H W C"],
    boxes: Float[Array, "R 4"],
    *,
    size: int | tuple[int, int],
    scale: float | int,
) -> Float[Array, "R h w C"]:
    """Returns the maximum of each bin of each box, 0 where a bin lies outside the map.

    Corners are rounded to the nearest cell, half cells away from zero, and both belong to the box;
    a box is at least one cell wide and high. A bin takes in every cell that it touches, so that
    neighbours overlap. The gradient of a bin goes to its first maximum, row by row.

    Args:
        features: one feature map.
        boxes: in pixels of the image.
        size: how many bins a box has: h and w, or one number for both.
        scale: cells of the map in a pixel, 1 / stride.

    Raises:
        ValueError: `size` is too small.

    >>> features = jnp.arange(16.0).reshape(4, 4, 1)
    >>> roi_pool(features, [[0, 0, 32, 32]], size=2, scale=1 / 16)[0, :, :, 0]  # 3 x 3 cells
    Array([[ 5.,  6.],
           [ 9., 10.]], dtype=float32)
    """
    return _pool(jnp.asarray(features), jnp.asarray(as_boxes(boxes)), _pair(size), scale)


# Compiled even where the caller is not: one by one their many small operations take seconds.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _pool(features, boxes, size, scale):
    if not len(boxes):
        return jnp.zeros((0, *size, features.shape[2]), features.dtype)
    boxes = lax.stop_gradient(boxes)
    is_box = ~jnp.any(jnp.isnan(boxes), axis=1)
    x1, y1, x2, y2 = _nearest_cell(jnp.where(is_box[:, None], boxes, 0) * scale).T
    rows = _bins(y1, y2, size[0], features.shape[0], is_box)
    columns = _bins(x1, x2, size[1], features.shape[1], is_box)
    return max_of_bins(features, rows, columns)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7, 8))
def _align(levels, boxes, level, size, scales, sampling_ratio, aligned, max_samples, box_gradient):
    if sampling_ratio < 0 or max_samples < 1:
        raise ValueError(
            f"sampling_ratio {sampling_ratio} is negative or max_samples {max_samples} not positive"
        )
    if not len(boxes):
        return jnp.zeros((0, *size, levels[0].shape[2]), levels[0].dtype)
    extents = jnp.array([features.shape[:2] for features in levels], jnp.int32)
    rows, columns = extents[level].T
    fixed = lax.stop_gradient(boxes)
    if box_gradient:
        # What is infinite or NaN has none, whatever the arithmetic below makes of it.
        is_finite = jnp.all(jnp.isfinite(boxes), axis=1, keepdims=True)
        boxes = jnp.where(is_finite, boxes, fixed)
    else:
        boxes = fixed
    boxes = boxes * jnp.asarray(scales, jnp.float32)[level][:, None]
    x1, y1, x2, y2 = (boxes - (0.5 if aligned else 0)).T

    def samples(start, end, bins, extent):
        length = end - start if aligned else jnp.maximum(end - start, 1)
        return _samples(start, length, bins, extent, sampling_ratio, max_samples)

    return sum_of_samples(
        levels,
        samples(y1, y2, size[0], rows),
        samples(x1, x2, size[1], columns),
        level,
        sample_gradient=box_gradient,
    )


def _samples(start, length, bins, extent, sampling_ratio, max_samples) -> Samples:
    """Returns where the samples of a box lie along one axis, and their parts in the mean."""
    bin_length = length / bins
    if sampling_ratio:
        count = jnp.full(start.shape, sampling_ratio, jnp.float32)
    else:
        count = jnp.clip(jnp.ceil(bin_length), 0, max_samples)
    index = jnp.arange(sampling_ratio or max_samples, dtype=jnp.float32)
    first = start[:, None] + jnp.arange(bins, dtype=jnp.float32)[None] * bin_length[:, None]
    step = bin_length / jnp.maximum(count, 1)
    place = first[:, :, None] + (index + 0.5)[None, None] * step[:, None, None]
    last = extent[:, None, None].astype(jnp.float32) - 1
    inside = (place >= -1) & (place <= last + 1) & (index[None, None] < count[:, None, None])
    place = jnp.clip(jnp.where(inside, place, 0), 0, last)
    return Samples(place, inside / jnp.maximum(count, 1)[:, None, None], extent)


def _nearest_cell(x):
    """Rounds half cells away from zero, as C does; `jnp.round` rounds them to even cells."""
    x = jnp.clip(x, -_FARTHEST_CELL, _FARTHEST_CELL)
    return (jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)).astype(jnp.int32)


def _bins(first, last, bins, extent, is_box) -> Bins:
    """Returns the cells of each bin along one axis, cut off at the border of the map.

    Caffe divides and multiplies floats; the integers here give the same cells.
    """
    length = jnp.maximum(last - first + 1, 1)[:, None]
    index = jnp.arange(bins)[None]
    start = first[:, None] + index * length // bins
    end = first[:, None] - (-(index + 1) * length) // bins
    start, end = (jnp.clip(cell, 0, extent) for cell in (start, end))
    return Bins(start, jnp.where(is_box[:, None], end, start))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size {size} is not positive")
    return int(height), int(width)
