"""Max pooling as the models call it, made for CPUs as well."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Float

from rpn_jax.models.layers.windows import output_size, pixels_of_windows, sum_over_windows
from rpn_jax.typing import Array


def max_pool(
    x: Float[Array, "N H W C"],
    window: int = 2,
    stride: int = 2,
    padding: int = 0,
    ceil: bool = False,
) -> Float[Array, "N h w C"]:
    """Returns the maximum over each `window` x `window` patch; see `output_size` for `ceil`.

    Padding, which is smaller than the window, is -infinity on each side; NaN wins. Where several
    inputs of a patch are equal, the gradient goes to the first of them in row-major order, as it
    does in `nn.max_pool`, which this is on a TPU. The gradient of that is slow on a CPU; on a GPU
    it sums in any order, and XLA refuses to compile it with `--xla_gpu_deterministic_ops`.
    """
    sizes = x.shape[1:3]
    counts = [output_size(size, window, stride, padding, ceil) for size in sizes]
    height, width = spans = [(count - 1) * stride + window for count in counts]  # under windows
    pads = tuple(
        (padding, max(span - size - padding, 0)) for span, size in zip(spans, sizes, strict=True)
    )

    def reduce_window(x):
        return nn.max_pool(x, (window, window), (stride, stride), pads)

    def compare_slices(x):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
        return _max_of_slices(x[:, :height, :width], window, stride)

    return lax.platform_dependent(x, tpu=reduce_window, default=compare_slices)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_of_slices(x, window, stride):
    return _max_and_index(x, window, stride)[0]


def _max_and_index(x, window, stride):
    """Returns the maximum of each window, and where in the window its first occurrence is."""
    best, *others = pixels_of_windows(x, (window, window), (stride, stride))
    index = jnp.zeros(best.shape, jnp.uint8)
    for place, other in enumerate(others, 1):
        better = (other > best) | jnp.isnan(other)
        best = jnp.where(better, other, best)
        index = jnp.where(better, jnp.uint8(place), index)
    return best, index


def _gradient_of_max(window, stride, index, dy):
    """Returns the input's gradient, without select-and-scatter."""
    # Without the barrier XLA repeats what came before for every element that reads it.
    index, dy = lax.optimization_barrier((index, dy))

    def part(i, j):
        return jnp.where(index == i * window + j, dy, 0)

    return (sum_over_windows(part, window, stride),)


def _max_and_kept_index(x, window, stride):
    # Without the barrier XLA keeps `x`, to find the index when the gradient needs it.
    return lax.optimization_barrier(_max_and_index(x, window, stride))


_max_of_slices.defvjp(_max_and_kept_index, _gradient_of_max)
