"""Weighted sums of the cells under a region, for RoIAlign, in the forms that suit each backend.

They are products of two axes: `Samples` are given for rows and columns on their own. Nothing much
larger than the result is written. TPUs gather one cell of every bin at a time. On CPUs and GPUs the
16 gathers of two samples by two are one kernel, on a GPU with a fraction of the traffic. TPUs and
GPUs scatter one cell of every bin at a time; on a CPU the gradient goes through the bins one after
the other, which takes a fifth of the time of a scatter. Where the number of samples is the region's
own, TPUs and GPUs go through groups of regions that need about as many.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Float, Int

from rpn_jax.typing import Array

# Cells of a bin, four for each sample, that are summed in one step.
_CELLS_AT_ONCE = 16
# Groups of regions that accelerators go through one after another, by rising number of samples.
_GROUPS = 8


class Samples(NamedTuple):
    """The s samples of each of n bins along one axis, for R regions.

    `place` is in cells, inside the map; `weight` is the part in the bin's mean, 0 for a sample that
    does not count; `extent` is the number of cells of the map.
    """

    place: Float[Array, "R n s"]
    weight: Float[Array, "R n s"]
    extent: Int[Array, " R"]


class _Axis(NamedTuple):
    """The lower and the upper neighbour of each sample: cells, and their weights (R, n, 2 s)."""

    cell: Array
    weight: Array


class _Grid(NamedTuple):
    """Where each region's cells lie in the rows of a table, and their weights."""

    rows: _Axis
    columns: _Axis
    first_cell: Array  # (R,)
    width: Array  # (R,)


def sum_of_samples(
    levels: Sequence[Float[Array, "_ _ C"]],
    rows: Samples,
    columns: Samples,
    level: Int[Array, " R"],
    sample_gradient: bool = False,
) -> Float[Array, "R h w C"]:
    """Returns the weighted sum of the bilinear samples of each bin.

    Args:
        levels: feature maps of one image.
        rows: the samples down.
        columns: the samples across.
        level: of each region, an index into `levels`.
        sample_gradient: whether there is a gradient by the places and weights of samples too.
    """
    sizes = [features.shape[0] * features.shape[1] for features in levels]
    first_cell = jnp.array([sum(sizes[:i]) for i in range(len(sizes))])[level]
    grid = _Grid(_neighbours(rows), _neighbours(columns), first_cell, columns.extent)
    table = jnp.concatenate([features.reshape(-1, features.shape[2]) for features in levels])
    shape = *rows.place.shape[:2], columns.place.shape[1], table.shape[1]
    sum_of_cells = _sum_of_weighted_cells if sample_gradient else _sum_of_cells
    return sum_of_cells(table, grid).reshape(shape)


def _neighbours(samples: Samples) -> _Axis:
    place, weight, extent = samples
    low = jnp.floor(place)
    high = jnp.minimum(low + 1, extent[:, None, None] - 1)
    above = place - low
    cell = jnp.stack([low, high], axis=-1).astype(jnp.int32)
    weight = jnp.stack([weight * (1 - above), weight * above], axis=-1)
    return _Axis(*(x.reshape(*x.shape[:2], -1) for x in (cell, weight)))


@jax.custom_vjp
def _sum_of_cells(table: Array, grid: _Grid) -> Array:
    """Returns the weighted sum of rows of a table for each bin of each region, (R h w, C)."""
    return lax.platform_dependent(
        table,
        grid,
        cpu=sequential_vmap(_gather_at_once),
        cuda=functools.partial(_gather_in_groups, _gather_at_once),
        rocm=functools.partial(_gather_in_groups, _gather_at_once),
        default=functools.partial(_gather_in_groups, _gather),
    )


def _sum_of_cells_forward(table: Array, grid: _Grid) -> tuple[Array, Any]:
    # The sum is linear: of the table it is the shape and type alone that the gradient needs.
    return _sum_of_cells(table, grid), (grid, table[:, :0])


def _sum_of_cells_backward(saved: Any, d_sums: Array) -> tuple[Array, None]:
    grid, like_table = saved
    start = jnp.zeros((len(like_table), d_sums.shape[1]), jnp.float32)
    d_table = lax.platform_dependent(
        start, grid, d_sums, cpu=sequential_vmap(_add_in_a_loop), default=_scatter_in_groups
    )
    return d_table.astype(like_table.dtype), None


_sum_of_cells.defvjp(_sum_of_cells_forward, _sum_of_cells_backward)


@jax.custom_vjp
def _sum_of_weighted_cells(table: Array, grid: _Grid) -> Array:
    """Returns `_sum_of_cells`, whose gradient is also by the weights of the grid."""
    return _sum_of_cells(table, grid)


def _sum_of_weighted_cells_forward(table: Array, grid: _Grid) -> tuple[Array, Any]:
    return _sum_of_cells(table, grid), (table, grid)


def _sum_of_weighted_cells_backward(saved: Any, d_sums: Array) -> tuple[Array, Any]:
    table, grid = saved
    d_table, _ = _sum_of_cells_backward((grid, table[:, :0]), d_sums)
    wide_d_sums = d_sums.astype(jnp.float32)

    def d_weight(_, cell):
        rows = table.at[cell].get(mode="promise_in_bounds").astype(jnp.float32)
        return None, jnp.sum(rows * wide_d_sums, axis=1)

    cells, _ = _cells_of_bins(grid)
    _, d_weights = lax.scan(d_weight, None, cells.T)
    of_rows, of_columns = grid.rows.weight, grid.columns.weight
    regions, height, down = of_rows.shape
    d_weights = d_weights.T.reshape(regions, height, of_columns.shape[1], down, -1)
    d_rows = jnp.einsum("rhwij,rwj->rhi", d_weights, of_columns, precision="highest")
    d_columns = jnp.einsum("rhwij,rhi->rwj", d_weights, of_rows, precision="highest")
    return d_table, _Grid(_Axis(None, d_rows), _Axis(None, d_columns), None, None)  # type: ignore[arg-type]


_sum_of_weighted_cells.defvjp(_sum_of_weighted_cells_forward, _sum_of_weighted_cells_backward)


def _gather_at_once(table: Array, grid: _Grid, in_steps: Callable | None = None) -> Array:
    def step(cells, weights, sums):
        for k in range(cells.shape[1]):
            rows = table.at[cells[:, k]].get(mode="promise_in_bounds").astype(jnp.float32)
            sums += rows * weights[:, k, None]
        return sums

    return (in_steps or _in_steps)(grid, step, _zeros(grid, table)).astype(table.dtype)


def _gather(table: Array, grid: _Grid, in_steps: Callable | None = None) -> Array:
    def add(sums, cell_and_weight):
        cell, weight = cell_and_weight
        rows = table.at[cell].get(mode="promise_in_bounds").astype(jnp.float32)
        return sums + rows * weight[:, None], None

    def step(cells, weights, sums):
        return lax.scan(add, sums, (cells.T, weights.T))[0]

    return (in_steps or _in_steps)(grid, step, _zeros(grid, table)).astype(table.dtype)


def _scatter(total: Array, grid: _Grid, d_sums: Array, in_steps: Callable) -> Array:
    d_sums = d_sums.astype(jnp.float32)

    def add(total, cell_and_weight):
        cell, weight = cell_and_weight
        return total.at[cell].add(d_sums * weight[:, None], mode="promise_in_bounds"), None

    def step(cells, weights, total):
        return lax.scan(add, total, (cells.T, weights.T))[0]

    return in_steps(grid, step, total)


def _gather_in_groups(gather: Callable, table: Array, grid: _Grid) -> Array:
    """Returns `gather(table, grid)`, group by group where the number of samples is each region's.

    A loop over the samples of all regions would be as long as that of the region with the most.
    """
    if _is_one_step(grid):
        return gather(table, grid)
    groups = _groups_by_need(grid)
    sums = lax.map(lambda regions: gather(table, _of_regions(grid, regions), _in_own_steps), groups)
    count = len(grid.first_cell)
    sums = sums.reshape(groups.size, -1, table.shape[1])
    of_region = jnp.zeros((count, *sums.shape[1:]), sums.dtype)
    of_region = of_region.at[groups.reshape(-1)].set(sums, mode="drop")
    return of_region.reshape(-1, table.shape[1])


def _scatter_in_groups(total: Array, grid: _Grid, d_sums: Array) -> Array:
    """Returns `_scatter`, group by group as `_gather_in_groups`."""
    if _is_one_step(grid):
        return _scatter(total, grid, d_sums, _in_steps)
    of_region = d_sums.reshape(len(grid.first_cell), -1, d_sums.shape[1])

    def add(total, regions):
        d_group = of_region.at[regions].get(mode="fill", fill_value=0)
        d_group = d_group.reshape(-1, d_sums.shape[1])
        return _scatter(total, _of_regions(grid, regions), d_group, _in_own_steps), None

    return lax.scan(add, total, _groups_by_need(grid))[0]


def _groups_by_need(grid: _Grid) -> Array:
    """Returns regions by rising number of samples, in rows; beyond the last one their number."""
    used_y, used_x = (_samples_used(axis, (1, 2)) for axis in (grid.rows, grid.columns))
    order = jnp.argsort(used_y * used_x)
    size = -(-len(order) // _GROUPS)
    padding = -len(order) % size
    return jnp.pad(order, (0, padding), constant_values=len(order)).reshape(-1, size)


def _of_regions(grid: _Grid, regions: Array) -> _Grid:
    """Returns the grid of some regions; one that is none has weights of 0."""
    return jax.tree.map(lambda x: x.at[regions].get(mode="fill", fill_value=0), grid)


def _add_in_a_loop(total: Array, grid: _Grid, d_sums: Array) -> Array:
    def step(cells, weights, total):
        def add_bin(i, total):
            d_sum = lax.dynamic_slice_in_dim(d_sums, i, 1).astype(jnp.float32)
            for k in range(cells.shape[1]):
                old = lax.dynamic_slice_in_dim(total, cells[i, k], 1)
                new = old + weights[i, k] * d_sum
                total = lax.dynamic_update_slice_in_dim(total, new, cells[i, k], axis=0)
            return total

        return lax.fori_loop(0, len(cells), add_bin, total)

    return _in_steps(grid, step, total)


def _zeros(grid: _Grid, table: Array) -> Array:
    regions, height = grid.rows.cell.shape[:2]
    return jnp.zeros((regions * height * grid.columns.cell.shape[1], table.shape[1]), jnp.float32)


def _in_steps(grid: _Grid, step: Callable[[Array, Array, Array], Array], state: Array) -> Array:
    """Calls `step(cells, weights, state)` with all cells of each bin, a few (R h w, k) at a time.

    Where all are too many, a step has one sample of each bin, and samples that no bin has are left
    out.
    """
    if _is_one_step(grid):
        return step(*_cells_of_bins(grid), state)

    def sample_of(axis, index):
        return _Axis(*(lax.dynamic_slice_in_dim(x, 2 * index, 2, axis=2) for x in axis))

    def one_sample(i, state):
        rows, columns = sample_of(grid.rows, i // used_x), sample_of(grid.columns, i % used_x)
        return step(*_cells_of_bins(grid._replace(rows=rows, columns=columns)), state)

    used_y, used_x = _samples_used(grid.rows), _samples_used(grid.columns)
    return lax.fori_loop(0, used_y * used_x, one_sample, state)


def _in_own_steps(grid: _Grid, step: Callable[[Array, Array, Array], Array], state: Array) -> Array:
    """Calls `step` as `_in_steps`, in each step with the next sample that a region has itself.

    So there are as many steps as the region with the most samples has; beyond its own ones the
    weights of a region are 0.
    """

    def samples_of(axis, index):
        places = 2 * index[:, None, None] + jnp.arange(2)[None, None]
        return _Axis(
            *(jnp.take_along_axis(x, places, axis=2, mode="fill", fill_value=0) for x in axis)
        )

    def one_sample(i, state):
        rows, columns = samples_of(grid.rows, i // used_x), samples_of(grid.columns, i % used_x)
        return step(*_cells_of_bins(grid._replace(rows=rows, columns=columns)), state)

    used_y, used_x = (_samples_used(axis, (1, 2)) for axis in (grid.rows, grid.columns))
    used_x = jnp.maximum(used_x, 1)
    return lax.fori_loop(0, jnp.max(used_y * used_x), one_sample, state)


def _is_one_step(grid: _Grid) -> bool:
    return grid.rows.cell.shape[2] * grid.columns.cell.shape[2] <= _CELLS_AT_ONCE


def _samples_used(axis: _Axis, over: tuple[int, ...] = (0, 1, 2)) -> Array:
    """Returns the most samples of a bin, of all regions or of each."""
    number = jnp.arange(axis.weight.shape[2]) // 2 + 1
    return jnp.max(jnp.where(axis.weight > 0, number[None, None], 0), axis=over, initial=0)


def _cells_of_bins(grid: _Grid) -> tuple[Array, Array]:
    """Returns rows of the table and their weights, (R h w, k) each."""
    cells = grid.first_cell[:, None, None] + grid.rows.cell * grid.width[:, None, None]
    cells = cells[:, :, None, :, None] + grid.columns.cell[:, None, :, None, :]
    weights = grid.rows.weight[:, :, None, :, None] * grid.columns.weight[:, None, :, None, :]
    k = cells.shape[3] * cells.shape[4]
    # A compiler would work each of them out again for every channel.
    return lax.optimization_barrier((cells.reshape(-1, k), weights.reshape(-1, k)))
