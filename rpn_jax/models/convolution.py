"""Convolution and pooling as the models call them, quick on a CPU too.

On accelerators this is plain `lax`. XLA's CPU backend has two weak spots, which cost a detector
most of its step: the gradient of a convolution's kernel and the gradient of max pooling. When a
program is lowered for a CPU, a 3x3 convolution of float32 maps with stride 1 and 'same' padding
(nearly all of VGG and ResNet) is computed by Winograd's minimal filtering F(4x4, 3x3) instead
(Lavin and Gray, "Fast algorithms for convolutional neural networks", arXiv 1509.09308), which
needs a quarter of the multiplications.

In one dimension F(4, 3) finds 4 outputs y of a filter g of 3 taps from 6 inputs d by

    y = A^T [(G g) * (B^T d)]

with 6 products where the definition needs 12. In two dimensions each matrix acts on rows and on
columns: a 4x4 tile of outputs from a 6x6 tile of inputs by 36 products instead of 144. Summed
over input channels, each of the 36 is a matrix product of (tiles, C) and (C, D) over all tiles.

Shapes: N images, H x W pixels, C input and D output channels; T = N * rows * columns of tiles.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Float

from rpn_jax.typing import Array

# The matrices of Lavin and Gray, section 4.3: interpolation at the points 0, 1, -1, 2, -2, infinity.
_B_T = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_A_T = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)
_GG = np.kron(_G, _G)  # (36, 9): both dimensions at once, for the small kernel
_TILE = 4
# Maps are worked through in bands of about this many tiles, whose 36 planes stay in the cache.
_TILES_PER_BAND = 600
# Below this many channels the transforms cost more than the products they save.
_MIN_CHANNELS = 32

_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    batch_group_count=1,
    precision=None,
    preferred_element_type=None,
):
    """`lax.conv_general_dilated` with the same meaning; give it to `nn.Conv` by that name."""
    options = {
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": dimension_numbers,
        "feature_group_count": feature_group_count,
        "batch_group_count": batch_group_count,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
    }
    plain = (
        lhs.ndim == 4
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _NHWC
        and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == batch_group_count == 1
    )
    if plain:
        window = rhs.shape[:2]
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(lhs.shape[1:3], window, window_strides, padding)
        padding = tuple(map(tuple, padding))
        if window == (1, 1) and padding == ((0, 0), (0, 0)):
            rows, columns = window_strides
            return lax.dot_general(
                lhs[:, ::rows, ::columns],
                rhs[0, 0],
                (((3,), (0,)), ((), ())),
                precision=precision,
                preferred_element_type=preferred_element_type,
            )
        if (
            window == (3, 3)
            and tuple(window_strides) == (1, 1)
            and padding == ((1, 1), (1, 1))
            and lhs.dtype == rhs.dtype == jnp.float32
            and preferred_element_type in (None, jnp.float32)
            and precision is None
            and min(rhs.shape[2:]) >= _MIN_CHANNELS
            and lhs.size > 0
        ):
            return _conv3x3(lhs, rhs)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


@jax.custom_vjp
def _conv3x3(x, kernel):
    """Returns the 3x3 convolution with stride 1 and 'same' padding, by platform."""
    return lax.platform_dependent(x, kernel, cpu=_winograd, default=_direct)


def _conv3x3_forward(x, kernel):
    return _conv3x3(x, kernel), (x, kernel)


def _conv3x3_backward(saved, dy):
    # Both branches of each gradient are written out here, because differentiating through
    # platform_dependent would save what either branch wants.
    x, kernel = saved

    def direct(x, kernel, dy):
        return jax.vjp(_direct, x, kernel)[1](dy)

    def winograd(x, kernel, dy):
        # The input's gradient is a convolution with the kernel turned by 180 degrees.
        dx = _winograd(dy, kernel[::-1, ::-1].swapaxes(2, 3))
        return dx, _winograd_kernel_gradient(x, dy)

    return lax.platform_dependent(x, kernel, dy, cpu=winograd, default=direct)


_conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def _direct(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)


def _winograd(x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"]):
    """Returns the 'same' convolution, a band of tile rows at a time."""
    images, height, width, _ = x.shape
    bands, rows, columns = _bands(images, height, width)
    x = _pad_input(x, bands * rows, columns)
    kernel = jnp.dot(_GG, kernel.reshape(9, -1), precision="highest").reshape(36, *kernel.shape[2:])

    def band(index):
        planes = _transform_input(_rows_of(x, index, rows, halo=1))
        return _transform_output(_multiply(planes, kernel), (images, rows, columns))

    y = lax.map(band, jnp.arange(bands))  # (bands, N, rows * 4, columns * 4, D)
    y = y.swapaxes(0, 1).reshape(images, bands * rows * _TILE, columns * _TILE, -1)
    return y[:, :height, :width]


def _winograd_kernel_gradient(x: Float[Array, "N H W C"], dy: Float[Array, "N H W D"]):
    """Returns the gradient of the kernel: the transpose of each step of `_winograd` in turn."""
    images, height, width, channels = x.shape
    bands, rows, columns = _bands(images, height, width)
    x = _pad_input(x, bands * rows, columns)
    below, right = bands * rows * _TILE - height, columns * _TILE - width
    dy = jnp.pad(dy, ((0, 0), (0, below), (0, right), (0, 0)))

    def band(total, index):
        planes = _transform_input(_rows_of(x, index, rows, halo=1))
        d_products = _transform_output_gradient(_rows_of(dy, index, rows))
        return total + _multiply(planes.swapaxes(1, 2), d_products), None

    zeros = jnp.zeros((36, channels, dy.shape[-1]), x.dtype)
    total, _ = lax.scan(band, zeros, jnp.arange(bands))
    gradient = jnp.dot(_GG.T, total.reshape(36, -1), precision="highest")
    return gradient.reshape(3, 3, *total.shape[1:])


def _bands(images, height, width):
    """Returns the number of bands, and the rows and columns of tiles in each."""
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    bands = min(rows, -(-images * rows * columns // _TILES_PER_BAND))
    rows_per_band = -(-rows // bands)
    return -(-rows // rows_per_band), rows_per_band, columns


def _pad_input(x, rows, columns):
    """Pads by the 'same' border of 1 and, below and to the right, to whole tiles and one more."""
    _, height, width, _ = x.shape
    below, right = (rows + 1) * _TILE - height - 1, (columns + 1) * _TILE - width - 1
    return jnp.pad(x, ((0, 0), (1, below), (1, right), (0, 0)))


def _rows_of(x, band, rows, halo=0):
    """Cuts out one band of `rows` tile rows, and `halo` more that its tiles overlap."""
    return lax.dynamic_slice_in_dim(x, band * rows * _TILE, (rows + halo) * _TILE, axis=1)


def _transform_input(x):
    """Returns B^T d B of the overlapping 6x6 tiles d, as 36 planes: (36, T, C)."""
    images, height, width, channels = x.shape
    rows, columns = height // _TILE - 1, width // _TILE - 1
    x = x.reshape(images, rows + 1, _TILE, columns + 1, _TILE, channels)
    x = [x[:, i // _TILE : i // _TILE + rows, i % _TILE] for i in range(6)]
    x = _combine(_B_T, x, axis=0)  # (6, N, rows, columns + 1, 4, C)
    x = [x[:, :, :, j // _TILE : j // _TILE + columns, j % _TILE] for j in range(6)]
    return _combine(_B_T, x, axis=1).reshape(36, -1, channels)


def _transform_output(products, tiles):
    """Returns A^T M A of the (36, T, D) products M, put together to the map."""
    images, rows, columns = tiles
    channels = products.shape[-1]
    y = _combine(_A_T, list(products.reshape(6, 6, *tiles, channels)), axis=0)
    y = _combine(_A_T, [y[:, j] for j in range(6)], axis=4)  # (4, N, rows, columns, 4, D)
    y = y.transpose(1, 2, 0, 3, 4, 5)
    return y.reshape(images, rows * _TILE, columns * _TILE, channels)


def _transform_output_gradient(dy):
    """Returns A dy A^T of the 4x4 tiles of dy, the transpose of `_transform_output`."""
    images, height, width, channels = dy.shape
    dy = dy.reshape(images, height // _TILE, _TILE, width // _TILE, _TILE, channels)
    dy = _combine(_A_T.T, [dy[:, :, i] for i in range(_TILE)], axis=0)
    dy = _combine(_A_T.T, [dy[..., j, :] for j in range(_TILE)], axis=1)
    return dy.reshape(36, -1, channels)


def _multiply(a, b):
    """Returns the 36 matrix products."""
    return lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))))


def _combine(matrix, parts, axis):
    """Returns `matrix` applied to the list `parts`, stacked on `axis`, without its zeros."""
    sums = []
    for row in matrix.tolist():
        terms = [part if c == 1 else c * part for c, part in zip(row, parts, strict=True) if c]
        sums.append(sum(terms[1:], start=terms[0]))
    # Without the barrier XLA repeats the first of two transforms inside the second.
    return lax.optimization_barrier(jnp.stack(sums, axis))


def max_pool(x, window=2, stride=2, padding=0):
    """Returns the maximum over each `window` x `window` patch (floor rounding of the output size)."""
    pads = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (window, window), (stride, stride), pads)
