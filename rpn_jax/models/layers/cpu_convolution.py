"""Forms of convolution that are fast on a CPU; `docs/cpu.md` has the figures.

XLA's CPU backend is slow where a detector spends most of its step, in the gradient of a
convolution's kernel. There

- a 3x3 convolution with stride 1 and 'same' padding (nearly all of VGG, half of ResNet) is
  computed by Winograd's minimal filtering, see `winograd`;
- one with a larger stride is a sum of matrix products, one for each place in the window;
- a 1x1 convolution is one product, and so is the gradient of its kernel;
- the kernel's gradient of a convolution of the image itself is a product with its patches.

Shapes: N images, H x W pixels, C input and D output channels; h x w windows.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from rpn_jax.models.layers.windows import pixels_of_windows, sum_over_bands, sum_over_windows
from rpn_jax.models.layers.winograd import winograd, winograd_gradients
from rpn_jax.typing import Array

# With fewer channels than this our forms cost more than the products they save.
_MIN_CHANNELS = 32
# A map with at most this many channels is taken for an image.
_MAX_IMAGE_CHANNELS = 4
# So much of its patches stays in the cache.
_BYTES_PER_BAND = 2**21

NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
Pads = tuple[tuple[int, int], tuple[int, int]]


def plain(
    strides: tuple[int, int],
    pads: Pads,
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "h w C D"],
) -> Float[Array, "N _ _ D"]:
    """Returns the convolution by `lax`: what accelerators run."""
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=NHWC)


class CpuForm(NamedTuple):
    """How a CPU computes a convolution.

    Fields:
      value: (x, kernel) to the output.
      gradients: (x, kernel, the output's gradient) to the gradients of x and kernel.
    """

    value: Callable[[Array, Array], Array]
    gradients: Callable[[Array, Array, Array], tuple[Array, Array]]


@functools.cache
def cpu_form(
    window: tuple[int, int], strides: tuple[int, int], pads: Pads, channels: int, features: int
) -> CpuForm | None:
    """Returns the form of a convolution of that kind, None where `lax` is as fast.

    The same one for the same arguments, because JAX traces a function anew that it does not know.
    """
    products = CpuForm(
        functools.partial(_sum_of_products, strides, pads),
        functools.partial(_gradients_of_products, strides, pads),
    )
    square = window[0] == window[1] and strides[0] == strides[1]
    if square and (window, pads) == ((1, 1), ((0, 0), (0, 0))):
        return products
    if channels <= _MAX_IMAGE_CHANNELS:
        return CpuForm(
            functools.partial(plain, strides, pads),
            functools.partial(_gradients_of_image, strides, pads),
        )
    if min(channels, features) < _MIN_CHANNELS:
        return None
    if (window, strides, pads) == ((3, 3), (1, 1), ((1, 1), (1, 1))):
        return CpuForm(winograd, winograd_gradients)
    return products if square and strides[0] > 1 else None


def _gradients_of_image(strides, pads, x, kernel, dy):
    """Returns the gradients, the kernel's by patches of a band of rows at a time."""
    (dx,) = jax.linear_transpose(lambda x: plain(strides, pads, x, kernel), x)(dy)
    window, (_, height, width, features) = kernel.shape[:2], dy.shape
    bytes_per_row = 4 * math.prod(window) * x.shape[3] * x.shape[0] * width
    bands = -(-height // max(_BYTES_PER_BAND // bytes_per_row, 1))
    rows = -(-height // bands)
    dy = jnp.pad(dy, ((0, 0), (0, bands * rows - height), (0, 0), (0, 0)))
    (top, _), sides = pads
    under = (bands * rows - 1) * strides[0] + window[0]
    around = ((0, 0, 0), (top, under - top - x.shape[1], 0), (*sides, 0), (0, 0, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), around)
    # Planes of one colour: their patches are copies of rows, and a matrix that the product needs no
    # transpose of.
    planes = jnp.moveaxis(x, 3, 0)
    planes = lax.optimization_barrier(planes.reshape(-1, *planes.shape[2:]))

    def of_band(index):
        size = (rows - 1) * strides[0] + window[0]
        band = lax.dynamic_slice_in_dim(planes, index * rows * strides[0], size, axis=1)
        of_rows = lax.dynamic_slice_in_dim(dy, index * rows, rows, axis=1).reshape(-1, features)
        patches = jnp.concatenate(pixels_of_windows(band, window, strides))
        patches = lax.optimization_barrier(patches.reshape(-1, len(of_rows)))
        return jnp.dot(patches, of_rows)

    return dx, sum_over_bands(of_band, bands).reshape(kernel.shape)


def _sum_of_products(strides, pads, x, kernel):
    """Returns the convolution as a matrix product for each place in the windows."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    pixels = pixels_of_windows(x, kernel.shape[:2], strides)
    return sum(map(jnp.dot, pixels, kernel.reshape(-1, *kernel.shape[2:])))


def _gradients_of_products(strides, pads, x, kernel, dy):
    sizes, window = x.shape[1:3], kernel.shape[:2]
    pixels = pixels_of_windows(jnp.pad(x, ((0, 0), *pads, (0, 0))), window, strides)
    # Contracted over one dimension, because over three XLA transposes the pixels first.
    flat = dy.reshape(-1, dy.shape[3])
    d_taps = [jnp.tensordot(p.reshape(-1, p.shape[3]), flat, axes=(0, 0)) for p in pixels]
    d_kernel = jnp.stack(d_taps).reshape(kernel.shape)
    dx = sum_over_windows(lambda i, j: jnp.dot(dy, kernel[i, j].T), window[0], strides[0])
    # What is under the windows has padding, and may lack the last pixels.
    around = [
        (-low, size + low - under, 0)
        for size, under, (low, _) in zip(sizes, dx.shape[1:3], pads, strict=True)
    ]
    return lax.pad(dx, jnp.float32(0), ((0, 0, 0), *around, (0, 0, 0))), d_kernel
