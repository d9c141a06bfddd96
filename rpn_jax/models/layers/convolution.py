"""Convolution as the models call it, made for CPUs as well.

On accelerators this is plain `lax`. XLA's CPU backend is slow where a detector spends most of its
step, in the gradient of a convolution's kernel. When a program is lowered for a CPU,

- a 3x3 convolution with stride 1 and 'same' padding (nearly all of VGG, half of ResNet) is
  computed by Winograd's minimal filtering, see `winograd`;
- one with a larger stride is a sum of matrix products, one for each place in the window;
- a 1x1 convolution, which is a product everywhere, has a gradient of the kernel that does not begin
  by transposing that of the output, as the one that JAX derives does: a third of ResNet-50's step;
- the kernel's gradient of a convolution of the image itself is a product with its patches.

Shapes: N images, H x W pixels, C input and D output channels; h x w windows.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float, PyTree

from rpn_jax.models.layers.windows import pixels_of_windows, sum_over_bands, sum_over_windows
from rpn_jax.models.layers.winograd import winograd, winograd_gradients
from rpn_jax.typing import Array

# With fewer channels than this our ways cost more than the products they save.
_MIN_CHANNELS = 32
# A map with at most this many channels is taken for an image.
_MAX_IMAGE_CHANNELS = 4
# So much of its patches stays in the cache.
_BYTES_PER_BAND = 2**21

_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def conv_general_dilated(
    lhs: Float[Array, "..."],
    rhs: Float[Array, "..."],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> Float[Array, "..."]:
    """`lax.conv_general_dilated` in all but speed; `nn.Conv` takes it under that name.

    The kinds in the module's docstring have reverse-mode derivatives of any order, but `jax.jvp` of
    them raises TypeError on every platform. On a CPU their values differ from `lax` by a few 1e-6
    of their scale, and maps of bfloat16 are computed in float32, and rounded. All else goes to
    `lax`.
    """
    plain = (
        lhs.ndim == rhs.ndim == 4
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _NHWC
        and all(dilation == 1 for dilation in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == batch_group_count == 1
        and lhs.shape[3] == rhs.shape[2]
    )
    if plain:
        window, strides = rhs.shape[:2], tuple(window_strides)
        pads = padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(lhs.shape[1:3], window, strides, pads)
        pads = tuple(map(tuple, pads))
        if (
            lhs.dtype == rhs.dtype in (jnp.float32, jnp.bfloat16)
            and precision is preferred_element_type is None
            and all(
                size + sum(pad) >= length and min(pad) >= 0
                for size, pad, length in zip(lhs.shape[1:3], pads, window, strict=True)
            )
            and lhs.size > 0
            and (ways := _ways(window, strides, pads, *rhs.shape[2:]))
        ):
            return _conv(*ways, lhs, rhs)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def promote_dtype(x, kernel, bias, *, dtype):
    """Flax's, which `nn.Conv` takes under that name; the three get their gradients together.

    XLA's CPU backend would leave the bias's to the end of the backward pass, and keep the gradient
    of the map for it.
    """
    return _together(*nn.dtypes.promote_dtype(x, kernel, bias, dtype=dtype))


@jax.custom_vjp
def _together(*arrays):
    return arrays


_together.defvjp(lambda *arrays: (arrays, None), lambda _, gradients: computed_once(gradients))


def computed_once(x: PyTree[Array]) -> PyTree[Array]:
    """Returns `x`, which XLA's CPU backend then computes once and as a whole, whatever reads it.

    Otherwise it computes what is cheap again for each reader, in a residual network with the sums
    of all the blocks before it, for which it keeps their terms to the end of the step.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


def _ways(window, strides, pads, channels, features):
    """Returns how to find a convolution on a CPU, its gradients there, and it elsewhere.

    None where a CPU does as `lax` does.
    """
    direct = functools.partial(_direct, strides, pads)
    products = functools.partial(_sum_of_products, strides, pads)
    gradients = functools.partial(_gradients_of_products, strides, pads)
    square = window[0] == window[1] and strides[0] == strides[1]
    if square and (window, pads) == ((1, 1), ((0, 0), (0, 0))):
        return products, gradients, products
    if channels <= _MAX_IMAGE_CHANNELS:
        return direct, functools.partial(_gradients_of_image, strides, pads), direct
    if min(channels, features) < _MIN_CHANNELS:
        return None
    if (window, strides, pads) == ((3, 3), (1, 1), ((1, 1), (1, 1))):
        return winograd, winograd_gradients, direct
    if square and strides[0] > 1:
        return products, gradients, direct
    return None


# The gradients are given, because those that JAX derives would keep what is made of the input, as
# Winograd's planes of 2.25 times its size, from the forward pass.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _conv(value, gradients, direct, x, kernel):
    return _forward(value, gradients, direct, x, kernel)[0]


def _forward(value, gradients, direct, x, kernel):
    def on_cpu(x, kernel):
        return value(*_float32(x, kernel)).astype(x.dtype)

    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=direct), (x, kernel)


def _backward(value, gradients, direct, saved, dy):
    def on_cpu(x, kernel, dy):
        # Without the barrier XLA keeps the padded input from the forward pass, besides the input.
        x, dy = lax.optimization_barrier((x, dy))
        dx, d_kernel = gradients(*_float32(x, kernel, dy))
        return dx.astype(x.dtype), d_kernel.astype(kernel.dtype)

    def elsewhere(x, kernel, dy):
        return jax.vjp(direct, x, kernel)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=on_cpu, default=elsewhere)


_conv.defvjp(_forward, _backward)


def _float32(*arrays):
    """Casts what XLA's CPU backend would cast, for want of bfloat16, anew in each band of a map."""
    return (a.astype(jnp.float32) for a in arrays)


def _direct(strides, pads, x, kernel):
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_NHWC)


def _gradients_of_image(strides, pads, x, kernel, dy):
    """Returns the gradients, the kernel's by patches of a band of rows at a time."""
    (dx,) = jax.linear_transpose(lambda x: _direct(strides, pads, x, kernel), x)(dy)
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
