"""Windows that slide over a map, of a pool or a convolution, and bands of its rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from rpn_jax.typing import Array


def output_size(size: int, window: int, stride: int, padding: int = 0, ceil: bool = False) -> int:
    """Returns how many windows lie along `size` pixels with `padding` on either side.

    Pixels that fill no whole window at the end are left out. With `ceil` they get a window of their
    own, which reaches beyond the padding, unless it would begin beyond the last pixel: so Caffe
    counts the windows of its pools, and torch with `ceil_mode`.
    """
    beyond_first = size + 2 * padding - window
    steps = -(-beyond_first // stride) if ceil else beyond_first // stride
    if ceil and steps * stride >= size + padding:
        steps -= 1
    return max(steps + 1, 0)


def pixels_of_windows(
    x: Float[Array, "N H W *C"], window: tuple[int, int], strides: tuple[int, int]
) -> list[Float[Array, "N h w *C"]]:
    """Returns the pixels at each place in the windows, row by row of a window."""
    height, width = (size - w + 1 for size, w in zip(x.shape[1:3], window, strict=True))
    return [
        x[:, i : i + height : strides[0], j : j + width : strides[1]]
        for i in range(window[0])
        for j in range(window[1])
    ]


def sum_over_windows(
    part: Callable[[int, int], Float[Array, "N h w C"]], window: int, stride: int
) -> Float[Array, "N H W C"]:
    """Returns the map under h x w windows, where each pixel is the sum of what they have for it.

    `part(i, j)` is what each window has for the pixel in its row i and column j. The pixels whose
    row and column leave the same remainders when divided by the stride form a plane; one gets its
    sum from the few windows over it. The planes are put together last.
    """
    shape = jax.eval_shape(lambda: part(0, 0))
    reach = -(-window // stride)  # windows over one pixel, in one dimension
    images, height, width, channels = shape.shape
    rows, columns = height + reach - 1, width + reach - 1

    def plane(row, column):
        total = jnp.zeros((images, rows, columns, channels), shape.dtype)
        for i in range(row, window, stride):
            for j in range(column, window, stride):
                down, right = i // stride, j // stride
                around = ((down, reach - 1 - down), (right, reach - 1 - right))
                total += jnp.pad(part(i, j), ((0, 0), *around, (0, 0)))
        return total

    planes = jnp.stack(
        [jnp.stack([plane(i, j) for j in range(stride)], axis=3) for i in range(stride)], axis=2
    )  # (images, rows, stride, columns, stride, channels)
    whole = planes.reshape(images, rows * stride, columns * stride, channels)
    return whole[:, : (height - 1) * stride + window, : (width - 1) * stride + window]


def sum_over_bands(part: Callable[[int | Array], Array], count: int) -> Array:
    """Returns the sum of `part(0)` to `part(count - 1)`, which are computed one after another."""
    # It begins with the first, because zeros XLA would make for all layers at once.
    later = jnp.arange(1, count)
    return lax.scan(lambda total, index: (total + part(index), None), part(0), later)[0]
