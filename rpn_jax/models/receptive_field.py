"""Which rows of an image each cell of a network's maps depends on, read off the traced program.

The program of `jax.make_jaxpr` is gone through once with NumPy; nothing is compiled, and no value
of a pixel or a parameter is needed. What is followed is the first and the last image row behind an
element, through windows (convolutions, pools), strides, sums, concatenation and repetition alike.
So no backbone needs an entry anywhere; only an operation that is not among those below needs a
rule.

What is taken over all rows at once (the mean of a group norm, say) counts for nothing: receptive
fields are quoted without it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Float

_ROWS = 1  # the axis of rows in a map of (images, rows, columns, channels)
_CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2")
_CELLWISE = {
    "abs", "add", "add_any", "and", "clamp", "convert_element_type", "copy", "div", "eq", "erf",
    "exp", "exp2", "expm1", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rsqrt", "select_n",
    "sign", "sqrt", "square", "stop_gradient", "sub", "tanh",
}  # fmt: skip


class Rows(NamedTuple):
    """The first and the last image row that each element of an array depends on.

    Both have the array's rank, and size 1 along the axes on which they do not change. Where there
    is no row behind an element, they are inf and -inf.
    """

    first: Float[np.ndarray, "..."]
    last: Float[np.ndarray, "..."]

    @property
    def extent(self) -> int:
        """The number of rows behind that element that depends on most."""
        return int((self.last - self.first).max()) + 1

    @property
    def step(self) -> float:
        """Image rows from one row of a map to the next, the mean over its middle half."""
        first = self.first.reshape(-1)
        start, stop = len(first) // 4, 3 * len(first) // 4
        return float(first[stop] - first[start]) / (stop - start)


def rows_seen(function: Callable, images: jax.ShapeDtypeStruct) -> Any:
    """Returns the tree of `function(images)` with `Rows` in place of its arrays.

    Beyond the border there is nothing to depend on: only cells in the middle of a large enough
    image have their whole receptive field. A result that depends on no single row is None.

    Args:
        function: of an array of images (B, H, W, C).
        images: the shape with which to trace it.

    Raises:
        NotImplementedError: rows pass through an operation that has no rule here; it is named.
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(images)
    row = np.arange(images.shape[_ROWS], dtype=np.float64)[None, :, None, None]
    rows = _follow(program.jaxpr, [Rows(row, row)])
    return jax.tree.unflatten(jax.tree.structure(shapes), rows)


def _follow(program, operands: list[Rows | None]) -> list[Rows | None]:
    """Returns the rows of a program's results, given those of its arguments."""
    known = dict(zip(program.invars, operands, strict=True))

    def read(variable):
        return None if isinstance(variable, Literal) else known.get(variable)

    for equation in program.eqns:
        operands = [read(variable) for variable in equation.invars]
        if all(rows is None for rows in operands):
            continue
        inner = _inner_program(equation)
        if inner is None:
            results = [_apply(equation, operands)]
        else:
            # The first operand of a conditional is the condition, which its branches do not take.
            results = _follow(inner, operands[len(operands) - len(inner.invars) :])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in program.outvars]


def _inner_program(equation):
    """Returns the program that an equation calls, None if it does something else."""
    parameters, inner = equation.params, None
    if None in (parameters.get("branches_platforms") or ()):
        # `lax.platform_dependent`: all branches say the same, the default says it most plainly.
        inner = parameters["branches"][parameters["branches_platforms"].index(None)]
    elif equation.primitive.name in _CALLS:
        inner = parameters["jaxpr" if "jaxpr" in parameters else "call_jaxpr"]
    return getattr(inner, "jaxpr", inner)


def _apply(equation, operands: list[Rows | None]) -> Rows | None:
    """Returns the rows of the one result of an equation that calls no program."""
    name = equation.primitive.name
    if name in _CELLWISE:
        return _unite(operands)
    if name == "concatenate":
        return _concatenate(equation, operands)
    rows, *others = operands
    if name not in _RULES or rows is None or any(other is not None for other in others):
        raise _no_rule(equation)
    return _RULES[name](equation, rows)


def _no_rule(equation) -> NotImplementedError:
    name, shapes = equation.primitive.name, [v.aval.shape for v in equation.invars]
    return NotImplementedError(f"no rule for the rows that pass through {name} of shapes {shapes}")


def _unite(operands: list[Rows | None]) -> Rows:
    """Returns the rows of what depends on all operands, element by element."""
    first, last = zip(*(rows for rows in operands if rows is not None), strict=True)
    return Rows(np.min(np.broadcast_arrays(*first), 0), np.max(np.broadcast_arrays(*last), 0))


def _concatenate(equation, operands: list[Rows | None]) -> Rows:
    """Where channels are put together, a map has one field for all of them."""
    axis = equation.params["dimension"]
    if not any(rows is not None and rows.first.shape[axis] > 1 for rows in operands):
        return _unite(operands)
    sizes = [variable.aval.shape[axis] for variable in equation.invars]
    if any(
        rows is None or rows.first.shape[axis] != size
        for rows, size in zip(operands, sizes, strict=True)
    ):
        raise _no_rule(equation)
    return Rows(*(np.concatenate(values, axis) for values in zip(*operands, strict=True)))


def _spread(values, axis, low, high, interior, fill):
    """Pads as `lax.pad` does: also between the values, and by less than nothing."""
    values = np.moveaxis(values, axis, 0)
    places = low + (interior + 1) * np.arange(len(values))
    size = places[-1] + 1 + high
    kept = (places >= 0) & (places < size)
    padded = np.full((size, *values.shape[1:]), fill)
    padded[places[kept]] = values[kept]
    return np.moveaxis(padded, 0, axis)


def _slide(equation, rows, size, stride, padding, dilation, base_dilation) -> Rows:
    """Returns the rows under windows of `size` rows of a map."""
    if rows.first.shape[_ROWS] == 1:
        raise _no_rule(equation)

    def under_windows(values, fill, extreme):
        values = _spread(values, _ROWS, *padding, base_dilation - 1, fill)
        reach = (size - 1) * dilation + 1
        windows = np.lib.stride_tricks.sliding_window_view(values, reach, axis=_ROWS)
        return extreme(windows[:, ::stride, ..., ::dilation], axis=-1)

    return Rows(
        under_windows(rows.first, np.inf, np.min), under_windows(rows.last, -np.inf, np.max)
    )


def _convolve(equation, rows: Rows) -> Rows:
    lhs, rhs, _ = equation.params["dimension_numbers"]
    if lhs[2] != _ROWS:
        raise _no_rule(equation)
    size = equation.invars[1].aval.shape[rhs[2]]
    fields = "window_strides", "padding", "rhs_dilation", "lhs_dilation"
    return _slide(equation, rows, size, *(equation.params[field][0] for field in fields))


def _pool(equation, rows: Rows) -> Rows:
    fields = "window_dimensions", "window_strides", "padding", "window_dilation", "base_dilation"
    return _slide(equation, rows, *(equation.params[field][_ROWS] for field in fields))


def _multiply(equation, rows: Rows) -> Rows:
    """Each cell's channels are multiplied with a matrix."""
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    if batch or any(rows.first.shape[axis] > 1 for axis in contracted):
        raise _no_rule(equation)
    kept = np.delete(rows.first.shape, contracted)
    new_axes = equation.outvars[0].aval.ndim - len(kept)
    return Rows(*(values.reshape(*kept, *[1] * new_axes) for values in rows))


def _reduce(equation, rows: Rows) -> Rows | None:
    axes = equation.params["axes"]
    if any(rows.first.shape[axis] > 1 for axis in axes):
        return None  # a statistic of all rows
    return Rows(*(values.squeeze(axes) for values in rows))


def _slice(equation, rows: Rows) -> Rows:
    starts, stops = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    cut = tuple(
        slice(None) if size == 1 else slice(*limits)
        for size, *limits in zip(rows.first.shape, starts, stops, strides, strict=True)
    )
    return Rows(*(values[cut] for values in rows))


def _pad(equation, rows: Rows) -> Rows:
    first, last = rows
    for axis, padding in enumerate(equation.params["padding_config"]):
        if first.shape[axis] > 1:
            first = _spread(first, axis, *padding, np.inf)
            last = _spread(last, axis, *padding, -np.inf)
    return Rows(first, last)


def _broadcast(equation, rows: Rows) -> Rows:
    shape = np.ones(len(equation.params["shape"]), int)
    shape[list(equation.params["broadcast_dimensions"])] = rows.first.shape
    return Rows(*(values.reshape(shape) for values in rows))


def _reshape(equation, rows: Rows) -> Rows:
    """Where later axes are merged with that of the rows, each row stands for several elements."""
    old, new = equation.invars[0].aval.shape, equation.params["new_sizes"]
    axis = int(np.argmax(rows.first.shape))
    count = rows.first.shape[axis]
    for new_axis, size in enumerate(new):
        if size > 1 and size % count == 0 and math.prod(new[:new_axis]) == math.prod(old[:axis]):
            shape = np.ones(len(new), int)
            shape[new_axis] = size
            return Rows(*(values.repeat(size // count).reshape(shape) for values in rows))
    raise _no_rule(equation)


def _squeeze(equation, rows: Rows) -> Rows:
    return Rows(*(values.squeeze(equation.params["dimensions"]) for values in rows))


def _transpose(equation, rows: Rows) -> Rows:
    return Rows(*(values.transpose(equation.params["permutation"]) for values in rows))


_RULES = {
    "conv_general_dilated": _convolve,
    "dot_general": _multiply,
    "reduce_window_max": _pool,
    "reduce_window_min": _pool,
    "reduce_window_sum": _pool,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_sum": _reduce,
    "slice": _slice,
    "pad": _pad,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
