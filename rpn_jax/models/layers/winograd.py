"""3x3 convolution by Winograd's minimal filtering F(4x4, 3x3), for CPUs.

Lavin and Gray, "Fast algorithms for convolutional neural networks", arXiv 1509.09308. It needs a
quarter of the multiplications that the definition does.

In one dimension F(4, 3) finds 4 outputs y of a filter g of 3 taps from 6 inputs d by

    y = A^T [(G g) * (B^T d)]

with 6 products where the definition takes 12. In two dimensions each matrix acts on rows and then
on columns: a 4x4 tile of outputs comes from a 6x6 tile of inputs, which overlaps its neighbours by
2, by 36 products instead of 144. Summed over the input channels, each of the 36 is one matrix
product, (T, C) by (C, D), for all tiles together.

The three matrices evaluate polynomials at 5 points and infinity. Lavin and Gray's points 0, 1, -1,
2, -2 amplify rounding; 0 with +-c and +-1/c cancel much of it (Alam et al., "Winograd convolution
for deep neural networks: efficient point selection", arXiv 2201.10369). With c = sqrt(2) the error
on random maps of 256 channels is 1.5e-6 of the output's standard deviation, against 3.3e-6.

Shapes: N images, H x W pixels, C input and D output channels; T = N * rows * columns of tiles.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from rpn_jax.models.layers.windows import sum_over_bands
from rpn_jax.typing import Array

_c = math.sqrt(2.0)
_r = 1.0 / _c
# Rows belong to the points 0, c, -c, r, -r, infinity. The row of a point p in _B_T holds the
# coefficients of the product of (x - q) over the other points q; in _G the powers of p, divided by
# that product at p; a column of _A_T holds the powers of p.
_B_T = np.array(
    [
        [1, 0, -2.5, 0, 1, 0],
        [0, -_r, -0.5, _c, 1, 0],
        [0, _r, -0.5, -_c, 1, 0],
        [0, -_c, -2, _r, 1, 0],
        [0, _c, -2, -_r, 1, 0],
        [0, 1, 0, -2.5, 0, 1],
    ]
)
_G = np.array(
    [
        [1, 0, 0],
        [1 / 6, _c / 6, 1 / 3],
        [1 / 6, -_c / 6, 1 / 3],
        [-2 / 3, -_c / 3, -1 / 3],
        [-2 / 3, _c / 3, -1 / 3],
        [0, 0, 1],
    ]
)
_A_T = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, _c, -_c, _r, -_r, 0],
        [0, 2, 2, 0.5, 0.5, 0],
        [0, 2 * _c, -2 * _c, _r / 2, -_r / 2, 1],
    ]
)
_G_G = np.kron(_G, _G).astype(np.float32)  # (36, 9): rows and columns at once, for the kernel
_TILE = 4
# Large maps are worked through in bands of about so many tiles, whose 36 planes stay in the cache.
_TILES_PER_BAND = 300
# A kernel has at most so many pairs of input and output channels at a time.
_MAX_KERNEL = 512 * 512


def winograd(
    x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "N H W D"]:
    """Returns the 'same' convolution, a band of tile rows at a time."""
    if (parts := _num_parts(*kernel.shape[2:])) > 1:
        return jnp.concatenate([winograd(x, k) for k in jnp.array_split(kernel, parts, 3)], 3)
    images, height, width, _ = x.shape
    bands, rows, columns = _bands(images, height, width)
    x = _pad_input(x, bands * rows, columns)
    kernel = jnp.dot(_G_G, kernel.reshape(9, -1), precision="highest").reshape(
        36, *kernel.shape[2:]
    )

    x, y = _with_zeros(x, (images, bands * rows * _TILE, columns * _TILE, kernel.shape[-1]))

    def band(y, index):
        planes = _transform_input(_rows_of(x, index, rows, halo=1))
        part = _transform_output(_multiply(planes, kernel), (images, rows, columns))
        start = index * rows * _TILE
        return lax.dynamic_update_slice_in_dim(y, part, start, axis=1), None

    y, _ = lax.scan(band, y, jnp.arange(bands))
    return y[:, :height, :width]


def winograd_gradients(
    x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"], dy: Float[Array, "N H W D"]
) -> tuple[Float[Array, "N H W C"], Float[Array, "3 3 C D"]]:
    """Returns the gradients of `x` and `kernel`."""
    # The input's gradient is a convolution with the kernel turned by 180 degrees.
    dx = winograd(dy, kernel[::-1, ::-1].swapaxes(2, 3))
    return dx, _kernel_gradient(x, dy)


def _kernel_gradient(x: Float[Array, "N H W C"], dy: Float[Array, "N H W D"]):
    """Returns the gradient of the kernel: the transpose of each step of `winograd` in turn."""
    if (parts := _num_parts(x.shape[3], dy.shape[3])) > 1:
        whole, start = jnp.zeros((3, 3, x.shape[3], dy.shape[3])), 0
        for d in jnp.array_split(dy, parts, 3):
            whole = lax.dynamic_update_slice_in_dim(whole, _kernel_gradient(x, d), start, axis=3)
            start += d.shape[3]
        return whole
    images, height, width, channels = x.shape
    bands, rows, columns = _bands(images, height, width)
    x = _pad_input(x, bands * rows, columns)
    below, right = bands * rows * _TILE - height, columns * _TILE - width
    dy = jnp.pad(dy, ((0, 0), (0, below), (0, right), (0, 0)))

    def products(index):
        planes = _transform_input(_rows_of(x, index, rows, halo=1))
        d_products = _transform_output_gradient(_rows_of(dy, index, rows))
        return _multiply(planes.swapaxes(1, 2), d_products)

    total = sum_over_bands(products, bands)
    gradient = jnp.dot(_G_G.T, total.reshape(36, -1), precision="highest")
    return gradient.reshape(3, 3, *total.shape[1:])


def _num_parts(channels, out_channels):
    """Returns into how many parts to take the output channels, one after another.

    The 36 planes of a kernel of 1024 by 1024 channels are 151 MB, those of its parts 38.
    """
    return max(channels * out_channels // _MAX_KERNEL, 1)


def _with_zeros(x, shape):
    """Returns `x`, and zeros that exist no earlier than it.

    Plain zeros of one shape XLA makes once for all layers, before the first of them, and copies
    for each.
    """
    x, zero = lax.optimization_barrier((x, jnp.zeros(())))
    return x, jnp.full(shape, zero)


def _bands(images, height, width):
    """Returns the number of bands, and the rows and columns of tiles in each."""
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    ideal = min(max(_TILES_PER_BAND // (images * columns), 1), rows)
    # Of those about as large, the bands that reach least beyond the map.
    sizes = range(-(-2 * ideal // 3), min(4 * ideal // 3, rows) + 1)
    rows_per_band = min(sizes, key=lambda size: (-(-rows // size) * size, abs(size - ideal)))
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
