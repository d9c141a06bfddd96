"""Maxima of the cells under a region, for RoIPool, in the forms that suit each backend.

They are products of two axes: `Bins` are given for rows and columns on their own. Accelerators mask
whole rows, for some regions at a time. A CPU goes through the cells of one bin after the other.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Float, Int

from rpn_jax.typing import Array

# Bytes that the maxima over rows take at a time.
_BYTES_AT_ONCE = 2**26


class Bins(NamedTuple):
    """The cells `start` to `end - 1` of each of n bins along one axis, for R regions."""

    start: Int[Array, "R n"]
    end: Int[Array, "R n"]


@jax.custom_vjp
def max_of_bins(
    features: Float[Array, "H W C"], rows: Bins, columns: Bins
) -> Float[Array, "R h w C"]:
    """Returns the maximum of each bin, 0 where it has no cells.

    The gradient goes to the first of equal maxima, row by row.

    Args:
        features: one feature map.
        rows: the cells of the bins down.
        columns: the cells of the bins across.
    """
    return lax.platform_dependent(
        features, rows, columns, cpu=sequential_vmap(_max_in_a_loop), default=_max_in_parts
    )


def _max_of_bins_forward(features: Array, rows: Bins, columns: Bins) -> tuple[Array, Any]:
    maxima = max_of_bins(features, rows, columns)
    return maxima, (features, rows, columns, maxima)


def _max_of_bins_backward(saved: Any, d_maxima: Array) -> tuple[Array, None, None]:
    d_features = lax.platform_dependent(
        *saved, d_maxima, cpu=sequential_vmap(_share_in_a_loop), default=_share_in_parts
    )
    return d_features.astype(saved[0].dtype), None, None


max_of_bins.defvjp(_max_of_bins_forward, _max_of_bins_backward)


def _max_in_a_loop(features: Array, rows: Bins, columns: Bins) -> Array:
    """Maxima bin by bin, over as many cells as each has."""
    cells = features.reshape(-1, features.shape[2])
    first, across, count = _cells_in_order(rows, columns, features.shape[1])

    def add_bin(i, maxima):
        def add_cell(k, best):
            cell = first[i] + (k // across[i]) * features.shape[1] + k % across[i]
            return jnp.maximum(best, lax.dynamic_slice_in_dim(cells, cell, 1))

        lowest = jnp.full((1, cells.shape[1]), -jnp.inf, cells.dtype)
        best = lax.fori_loop(0, count[i], add_cell, lowest)
        best = jnp.where(count[i] > 0, best, 0)
        return lax.dynamic_update_slice_in_dim(maxima, best, i, axis=0)

    maxima = jnp.zeros((len(count), cells.shape[1]), cells.dtype)
    maxima = lax.fori_loop(0, len(count), add_bin, maxima)
    return maxima.reshape(*rows.start.shape, columns.start.shape[1], -1)


def _share_in_a_loop(
    features: Array, rows: Bins, columns: Bins, maxima: Array, d_maxima: Array
) -> Array:
    """Gives the gradient of each bin to the first cell that is its maximum."""
    channels = features.shape[2]
    cells, maxima, d_maxima = (x.reshape(-1, channels) for x in (features, maxima, d_maxima))
    first, across, count = _cells_in_order(rows, columns, features.shape[1])

    def add_bin(i, total):
        best = lax.dynamic_slice_in_dim(maxima, i, 1)

        def add_cell(k, state):
            total, left = state
            cell = first[i] + (k // across[i]) * features.shape[1] + k % across[i]
            is_best = lax.dynamic_slice_in_dim(cells, cell, 1) == best
            new = lax.dynamic_slice_in_dim(total, cell, 1) + jnp.where(is_best, left, 0)
            total = lax.dynamic_update_slice_in_dim(total, new, cell, axis=0)
            return total, jnp.where(is_best, 0, left)

        d_bin = lax.dynamic_slice_in_dim(d_maxima, i, 1).astype(jnp.float32)
        return lax.fori_loop(0, count[i], add_cell, (total, d_bin))[0]

    total = jnp.zeros(cells.shape, jnp.float32)
    return lax.fori_loop(0, len(count), add_bin, total).reshape(features.shape)


def _cells_in_order(rows: Bins, columns: Bins, width: int) -> tuple[Array, Array, Array]:
    """Returns the first cell, the cells across and the number of cells of each bin, (R h w,)."""
    down, across = (jnp.maximum(axis.end - axis.start, 0) for axis in (rows, columns))
    first = rows.start[:, :, None] * width + columns.start[:, None]
    count = down[:, :, None] * across[:, None]
    across = jnp.broadcast_to(across[:, None], count.shape)
    return lax.optimization_barrier(tuple(x.reshape(-1) for x in (first, across, count)))


def _max_in_parts(features: Array, rows: Bins, columns: Bins) -> Array:
    parts = _in_parts((rows, columns), _regions_at_once(features, rows))
    maxima = lax.map(lambda part: _masked_max(features, *part), parts)
    return maxima.reshape(-1, *maxima.shape[2:])[: len(rows.start)]


def _share_in_parts(
    features: Array, rows: Bins, columns: Bins, maxima: Array, d_maxima: Array
) -> Array:
    def add(total, part):
        return total + _masked_max_gradient(features, *part), None

    parts = _in_parts((rows, columns, maxima, d_maxima), _regions_at_once(features, rows))
    total, _ = lax.scan(add, jnp.zeros(features.shape, jnp.float32), parts)
    return total


def _masked_max(features: Array, rows: Bins, columns: Bins) -> Array:
    """Maxima over rows, of every column of the map, then over columns."""
    in_row, in_column = _masks(features, rows, columns)
    best = jnp.max(jnp.where(in_row, features[None, None], -jnp.inf), axis=2)
    maxima = jnp.max(jnp.where(in_column, best[:, :, None], -jnp.inf), axis=3)
    is_empty = ~(jnp.any(in_row, axis=2)[:, :, None, 0] & jnp.any(in_column, axis=3))
    return jnp.where(is_empty, 0, maxima).astype(features.dtype)


def _masked_max_gradient(
    features: Array, rows: Bins, columns: Bins, maxima: Array, d_maxima: Array
) -> Array:
    in_row, in_column = _masks(features, rows, columns)
    height, width = features.shape[:2]
    y = jnp.arange(height)[None, None, :, None, None]
    x = jnp.arange(width)[None, None, None, :, None]
    best = jnp.max(jnp.where(in_row, features[None, None], -jnp.inf), axis=2)
    is_best = in_row & (features[None, None] == best[:, :, None])
    first_row = jnp.min(jnp.where(is_best, y, height), axis=2)  # (R, h, W, C)
    is_max = in_column & (best[:, :, None] == maxima[:, :, :, None])
    row = jnp.min(jnp.where(is_max, first_row[:, :, None], height), axis=3)  # (R, h, w, C)
    is_max &= first_row[:, :, None] == row[:, :, :, None]
    column = jnp.min(jnp.where(is_max, x, width), axis=3)
    d_maxima = d_maxima.astype(jnp.float32)
    d_best = jnp.sum(jnp.where(column[:, :, :, None] == x, d_maxima[:, :, :, None], 0), axis=2)
    return jnp.sum(jnp.where(first_row[:, :, None] == y, d_best[:, :, None], 0), axis=(0, 1))


def _masks(features: Array, rows: Bins, columns: Bins) -> tuple[Array, Array]:
    """Returns which rows, (R, h, H, 1, 1), and which columns, (R, 1, w, W, 1), are in a bin."""

    def of_axis(bins, extent):
        cell = jnp.arange(extent)[None, None]
        return (bins.start[:, :, None] <= cell) & (cell < bins.end[:, :, None])

    height, width = features.shape[:2]
    return (
        of_axis(rows, height)[:, :, :, None, None],
        of_axis(columns, width)[:, None, :, :, None],
    )


def _regions_at_once(features: Array, rows: Bins) -> int:
    bytes_of_region = 4 * rows.start.shape[1] * features.shape[1] * features.shape[2]
    return max(1, _BYTES_AT_ONCE // bytes_of_region)


def _in_parts(of_regions: Any, most: int) -> Any:
    """Splits arrays by their first axis into equal parts of at most `most`; adds zeros at the end.

    Bins of zeros are empty.
    """
    count = max(1, len(jax.tree.leaves(of_regions)[0]))
    parts = -(-count // most)

    def split(x):
        size = -(-count // parts)
        x = jnp.pad(x, [(0, parts * size - len(x))] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(parts, size, *x.shape[1:])

    return jax.tree.map(split, of_regions)
