"""Convolution and pooling as the models call them, made for CPUs as well.

On accelerators this is plain `lax`, but for the max pooling of GPUs, see `max_pool`. XLA's CPU
backend is slow where a detector spends most of its step: the gradient of a convolution's kernel and
the gradient of max pooling. When a program is lowered for a CPU, a 3x3 convolution of maps with
stride 1 and 'same' padding (nearly all of VGG, half of ResNet) is computed by Winograd's
minimal filtering F(4x4, 3x3) instead (Lavin and Gray, "Fast algorithms for convolutional neural
networks", arXiv 1509.09308), which needs a quarter of the multiplications; and a convolution of the
image itself is a product with its patches.

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

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float, PyTree

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
# With fewer channels than this the transforms cost more than the products they save.
_MIN_CHANNELS = 32

# A map with at most this many channels is taken for an image.
_MAX_IMAGE_CHANNELS = 4

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

    A 1x1 convolution in NHWC becomes a matrix product, whose gradients are quick everywhere. A
    3x3 convolution of the module's docstring becomes Winograd's on a CPU; it has reverse-mode
    derivatives of any order, but `jax.jvp` of it raises TypeError on every platform, and its
    values differ from `lax` by a few 1e-6 of their scale; maps of bfloat16 are computed in float32
    there, and rounded. A convolution of at most 4 channels, the first of a network, becomes a
    matrix product on a CPU. All else goes to `lax`.
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
        if window == (1, 1) and pads == ((0, 0), (0, 0)):
            return lax.dot_general(
                lhs[:, :: strides[0], :: strides[1]],
                rhs[0, 0],
                (((3,), (0,)), ((), ())),
                precision=precision,
                preferred_element_type=preferred_element_type,
            )
        if (
            (window, strides, pads) == ((3, 3), (1, 1), ((1, 1), (1, 1)))
            and lhs.dtype == rhs.dtype in (jnp.float32, jnp.bfloat16)
            and precision is preferred_element_type is None
            and min(rhs.shape[2:]) >= _MIN_CHANNELS
            and lhs.size > 0
        ):
            return _conv3x3(lhs, rhs)
        if (
            rhs.shape[2] <= _MAX_IMAGE_CHANNELS
            and precision is preferred_element_type is None
            and lhs.size > 0
        ):
            return _conv_of_image(lhs, rhs, strides, pads)
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
    height, width = (size - window + 1 for size in x.shape[1:3])
    best, index = None, None
    for i in range(window):
        for j in range(window):
            other = x[:, i : i + height : stride, j : j + width : stride]
            if best is None:
                best, index = other, jnp.zeros(other.shape, jnp.uint8)
            else:
                better = (other > best) | jnp.isnan(other)
                best = jnp.where(better, other, best)
                index = jnp.where(better, jnp.uint8(i * window + j), index)
    return best, index


def _gradient_of_max(window, stride, index, dy):
    """Returns the gradient of the windows' input, 10 to 40 times quicker than select-and-scatter.

    The pixels whose row and column leave the same remainders when divided by the stride form a
    plane; a pixel gets its gradient from the few windows over it. The planes are put together last.
    """
    # Without the barrier XLA repeats what came before for every element that reads it.
    index, dy = lax.optimization_barrier((index, dy))
    reach = -(-window // stride)  # windows over one pixel, in one dimension
    images, height, width, channels = dy.shape
    rows, columns = height + reach - 1, width + reach - 1

    def plane(row, column):
        total = jnp.zeros((images, rows, columns, channels), dy.dtype)
        for i in range(row, window, stride):
            for j in range(column, window, stride):
                down, right = i // stride, j // stride
                around = ((down, reach - 1 - down), (right, reach - 1 - right))
                part = jnp.where(index == i * window + j, dy, 0)
                total += jnp.pad(part, ((0, 0), *around, (0, 0)))
        return total

    dx = jnp.stack(
        [jnp.stack([plane(i, j) for j in range(stride)], axis=3) for i in range(stride)], axis=2
    )  # (images, rows, stride, columns, stride, channels)
    dx = dx.reshape(images, rows * stride, columns * stride, channels)
    return (dx[:, : (height - 1) * stride + window, : (width - 1) * stride + window],)


def _max_and_kept_index(x, window, stride):
    # Without the barrier XLA keeps `x`, to find the index when the gradient needs it.
    return lax.optimization_barrier(_max_and_index(x, window, stride))


_max_of_slices.defvjp(_max_and_kept_index, _gradient_of_max)


def _direct(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)


def _forward(x, kernel):
    return lax.platform_dependent(x, kernel, cpu=_winograd, default=_direct), (x, kernel)


def _backward(saved, dy):
    def direct(x, kernel, dy):
        return jax.vjp(_direct, x, kernel)[1](dy)

    def winograd(x, kernel, dy):
        # Without the barrier XLA keeps the padded input from the forward pass, besides the input.
        x, dy = lax.optimization_barrier((x, dy))
        # The input's gradient is a convolution with the kernel turned by 180 degrees.
        dx = _winograd(dy, kernel[::-1, ::-1].swapaxes(2, 3))
        return dx, _winograd_kernel_gradient(x, dy)

    return lax.platform_dependent(*saved, dy, cpu=winograd, default=direct)


def _conv_of_image(x, kernel, strides, pads):
    """Returns a network's first convolution; on a CPU, as one product with all patches.

    XLA's CPU backend takes eight times as long for its kernel's gradient as for its value. The
    patches are kept for that gradient; they are few, because an image has few channels.
    """

    def direct(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_NHWC)

    def product(x, kernel):
        window = kernel.shape[:2]
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        ends = [size - w + 1 for size, w in zip(x.shape[1:3], window, strict=True)]
        patches = jnp.concatenate(
            [
                x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
                for i in range(window[0])
                for j in range(window[1])
            ],
            axis=-1,
        )
        patches = lax.optimization_barrier(patches)
        return jnp.dot(patches, kernel.reshape(patches.shape[-1], -1))

    return lax.platform_dependent(x, kernel, cpu=product, default=direct)


@jax.custom_vjp
def _conv3x3(x, kernel):
    return _forward(x, kernel)[0]


# By hand, because the derivative of `_winograd` would keep the 36 planes of every layer (2.25 times
# its input) for the backward pass.
_conv3x3.defvjp(_forward, _backward)


def _winograd(x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"]):
    """Returns the 'same' convolution, a band of tile rows at a time, in float32 inside."""
    if (parts := _num_parts(*kernel.shape[2:])) > 1:
        return jnp.concatenate([_winograd(x, k) for k in jnp.array_split(kernel, parts, 3)], 3)
    dtype = x.dtype
    images, height, width, _ = x.shape
    bands, rows, columns = _bands(images, height, width)
    x = _pad_input(x, bands * rows, columns)
    kernel = kernel.astype(jnp.float32)
    kernel = jnp.dot(_G_G, kernel.reshape(9, -1), precision="highest").reshape(
        36, *kernel.shape[2:]
    )

    x, y = _with_zeros(x, (images, bands * rows * _TILE, columns * _TILE, kernel.shape[-1]), dtype)

    def band(y, index):
        planes = _transform_input(_rows_of(x, index, rows, halo=1))
        part = _transform_output(_multiply(planes, kernel), (images, rows, columns))
        start = index * rows * _TILE
        return lax.dynamic_update_slice_in_dim(y, part.astype(dtype), start, axis=1), None

    y, _ = lax.scan(band, y, jnp.arange(bands))
    return y[:, :height, :width]


def _winograd_kernel_gradient(x: Float[Array, "N H W C"], dy: Float[Array, "N H W D"]):
    """Returns the gradient of the kernel: the transpose of each step of `_winograd` in turn."""
    if (parts := _num_parts(x.shape[3], dy.shape[3])) > 1:
        of_parts = [_winograd_kernel_gradient(x, d) for d in jnp.array_split(dy, parts, 3)]
        return jnp.concatenate(of_parts, 3)
    images, height, width, channels = x.shape
    bands, rows, columns = _bands(images, height, width)
    x = _pad_input(x, bands * rows, columns)
    below, right = bands * rows * _TILE - height, columns * _TILE - width
    dy = jnp.pad(dy, ((0, 0), (0, below), (0, right), (0, 0)))

    def products(index):
        planes = _transform_input(_rows_of(x, index, rows, halo=1))
        d_products = _transform_output_gradient(_rows_of(dy, index, rows))
        return _multiply(planes.swapaxes(1, 2), d_products)

    total, _ = lax.scan(
        lambda total, index: (total + products(index), None), products(0), jnp.arange(1, bands)
    )
    gradient = jnp.dot(_G_G.T, total.reshape(36, -1), precision="highest")
    return gradient.reshape(3, 3, *total.shape[1:]).astype(x.dtype)


def _num_parts(channels, out_channels):
    """Returns into how many parts to take the output channels, one after another.

    The 36 planes of a kernel of 1024 by 1024 channels are 151 MB, those of its parts 38.
    """
    return max(channels * out_channels // _MAX_KERNEL, 1)


def _with_zeros(x, shape, dtype):
    """Returns `x`, and zeros that exist no earlier than it.

    Plain zeros of one shape XLA makes once for all layers, before the first of them, and copies
    for each.
    """
    x, zero = lax.optimization_barrier((x, jnp.zeros((), dtype)))
    return x, jnp.full(shape, zero)


def _bands(images, height, width):
    """Returns the number of bands, and the rows and columns of tiles in each."""
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    ideal = min(max(_TILES_PER_BAND // (images * columns), 1), rows)
    # Of those about as large, the bands that reach least beyond the map.
    sizes = range(-(-2 * ideal // 3), min(5 * ideal // 3, rows) + 1)
    rows_per_band = min(sizes, key=lambda size: (-(-rows // size) * size, abs(size - ideal)))
    return -(-rows // rows_per_band), rows_per_band, columns


def _pad_input(x, rows, columns):
    """Pads by the 'same' border of 1 and, below and to the right, to whole tiles and one more."""
    _, height, width, _ = x.shape
    below, right = (rows + 1) * _TILE - height - 1, (columns + 1) * _TILE - width - 1
    return jnp.pad(x, ((0, 0), (1, below), (1, right), (0, 0)))


def _rows_of(x, band, rows, halo=0):
    """Cuts out one band of `rows` tile rows, and `halo` more that its tiles overlap, as float32."""
    band = lax.dynamic_slice_in_dim(x, band * rows * _TILE, (rows + halo) * _TILE, axis=1)
    return band.astype(jnp.float32)


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
