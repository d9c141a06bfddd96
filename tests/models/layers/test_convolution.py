"""The quick convolution and pool against `lax`, in value and gradient, in every transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export, lax

from rpn_jax.models.layers import convolution, winograd
from rpn_jax.models.layers.convolution import conv_general_dilated
from rpn_jax.models.layers.pooling import max_pool
from rpn_jax.models.layers.windows import output_size

NHWC = ("NHWC", "HWIO", "NHWC")
PLATFORMS = ("cpu", "cuda", "tpu")


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def same_3x3(conv, x, kernel):
    return conv(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)


def value_and_gradients(function, x, kernel):
    """The output, and the gradients of its product with fixed noise."""
    y, pullback = jax.vjp(function, x, kernel)
    return y, *pullback(normal(9, *y.shape))


def assert_close(got, expected, tolerance=2e-5):
    """Compares to within `tolerance` of the expected array's largest value."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-30))


def test_the_matrices_give_an_exact_filter_in_one_dimension():
    signal, taps = np.arange(1.0, 7.0) ** 2, np.array([2.0, -1.0, 0.5])
    y = winograd._A_T @ ((winograd._G @ taps) * (winograd._B_T @ signal))
    # 2 * 1 - 4 + 9 / 2 = 2.5; 2 * 4 - 9 + 16 / 2 = 7; 18 - 16 + 12.5 = 14.5; 32 - 25 + 18 = 25.
    np.testing.assert_allclose(y, [2.5, 7.0, 14.5, 25.0], rtol=1e-12)


@pytest.mark.parametrize(
    ("images", "height", "width", "channels", "features"),
    [
        (1, 1, 1, 32, 32),
        (3, 6, 9, 32, 40),
        (2, 37, 50, 32, 32),  # two bands of tile rows, the second not full
    ],
)
def test_winograd_equals_lax_in_value_and_gradients(images, height, width, channels, features):
    x, kernel = normal(0, images, height, width, channels), normal(1, 3, 3, channels, features)
    got, expected = (
        jax.jit(functools.partial(value_and_gradients, functools.partial(same_3x3, conv)))(
            x, kernel
        )
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert_close(got, expected)


@pytest.mark.parametrize("window", [(3, 3), (1, 1)])
def test_a_convolution_of_bfloat16_is_that_of_float32_rounded(window):
    x, kernel, dy = (
        normal(seed, *shape).astype(jnp.bfloat16)
        for seed, shape in enumerate([(2, 9, 6, 32), (*window, 32, 40), (2, 9, 6, 40)])
    )

    def run(x, kernel, dy):
        y, pullback = jax.vjp(functools.partial(same_3x3, conv_general_dilated), x, kernel)
        return y, *pullback(dy)

    expected = jax.jit(run)(*(a.astype(jnp.float32) for a in (x, kernel, dy)))
    got = jax.jit(run)(x, kernel, dy)
    # One rounding is 2^-9 of a value at most; values next to it may round the other way.
    assert_close(got, [a.astype(jnp.bfloat16) for a in expected], 2**-8)


@pytest.mark.parametrize(("height", "width"), [(17, 22), (1, 1)])
@pytest.mark.parametrize(("window", "stride", "pad"), [(7, 2, 3), (3, 1, 1)])
@pytest.mark.parametrize("bytes_per_band", [convolution._BYTES_PER_BAND, 20_000])
def test_a_first_convolution_equals_lax_in_value_and_gradients(
    height, width, window, stride, pad, bytes_per_band, monkeypatch
):
    # With 20,000 bytes, 9 and 17 rows of outputs are 9 and 5 bands, the last of these not full.
    monkeypatch.setattr(convolution, "_BYTES_PER_BAND", bytes_per_band)
    x, kernel = normal(0, 2, height, width, 3), normal(1, window, window, 3, 8)

    def run(conv):
        pads = ((pad, pad), (pad, pad))
        strided = functools.partial(
            conv, window_strides=(stride, stride), padding=pads, dimension_numbers=NHWC
        )
        return jax.jit(functools.partial(value_and_gradients, strided))(x, kernel)

    assert_close(run(conv_general_dilated), run(lax.conv_general_dilated))


@pytest.mark.parametrize(("height", "width"), [(17, 22), (8, 11), (5, 6)])
@pytest.mark.parametrize(("window", "stride", "pad"), [(3, 2, 1), (5, 2, 0), (5, 3, 2), (2, 3, 1)])
def test_a_strided_convolution_equals_lax_in_value_and_gradients(
    height, width, window, stride, pad
):
    x, kernel = normal(0, 2, height, width, 32), normal(1, window, window, 32, 40)

    def run(conv):
        strided = functools.partial(
            conv,
            window_strides=(stride, stride),
            padding=((pad, pad), (pad, pad)),
            dimension_numbers=NHWC,
        )
        step = jax.jit(functools.partial(value_and_gradients, strided))
        return step(x, kernel), step.lower(x, kernel).compile().as_text()

    (got, program), (expected, _) = run(conv_general_dilated), run(lax.conv_general_dilated)
    assert_close(got, expected)
    assert " convolution(" not in program


def test_winograd_error_against_float64_is_a_few_roundings():
    x, kernel = normal(0, 1, 12, 12, 256), normal(1, 3, 3, 256, 64)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(np.asarray(x[0], np.float64), ((1, 1), (1, 1), (0, 0))), (3, 3), axis=(0, 1)
    )
    exact = np.einsum("hwcij,ijcd->hwd", windows, np.asarray(kernel, np.float64), optimize=True)
    error = np.asarray(winograd.winograd(x, kernel))[0] - exact
    assert np.sqrt(np.mean(error**2)) < 3e-6 * exact.std()  # 1.5e-6 measured
    assert np.abs(error).max() < 2e-5 * exact.std()


@pytest.mark.parametrize("tiles_per_band", [1, 7, 12])
def test_the_size_of_bands_changes_rounding_only(monkeypatch, tiles_per_band):
    x, dy, kernel = normal(0, 2, 17, 10, 3), normal(1, 2, 17, 10, 5), normal(2, 3, 3, 3, 5)

    def run():
        # A new function each time: the number of bands is part of what jit compiles.
        return jax.jit(
            lambda x, dy, kernel: (
                winograd.winograd(x, kernel),
                winograd._kernel_gradient(x, dy),
            )
        )(x, dy, kernel)

    whole = run()  # 2 x 5 x 3 = 30 tiles are one band
    monkeypatch.setattr(winograd, "_TILES_PER_BAND", tiles_per_band)
    assert_close(run(), whole, 1e-6)


@pytest.mark.parametrize("height_width", [(1, 1), (5, 300), (37, 50), (75, 100), (150, 200)])
@pytest.mark.parametrize("images", [1, 3, 200])
def test_bands_cover_the_map_and_reach_little_beyond(images, height_width):
    bands, rows, columns = winograd._bands(images, *height_width)
    needed = -(-height_width[0] // 4)
    assert columns == -(-height_width[1] // 4)
    assert needed <= bands * rows < needed + rows
    assert bands * rows - needed <= max(needed // 10, 1)


def test_output_channels_in_parts_change_rounding_only(monkeypatch):
    x, kernel = normal(0, 2, 9, 14, 32), normal(1, 3, 3, 32, 72)

    def results():
        whole = functools.partial(
            value_and_gradients, functools.partial(same_3x3, conv_general_dilated)
        )
        return jax.jit(lambda *arguments: whole(*arguments))(x, kernel)

    expected = results()
    monkeypatch.setattr(winograd, "_MAX_KERNEL", 32 * 20)  # in 3 parts
    assert_close(results(), expected, 2e-6)


def test_gradients_that_come_together_are_the_same():
    def loss(x, kernel, bias, promote):
        x, kernel, bias = promote(x, kernel, bias, dtype=jnp.float32)
        return jnp.sin(same_3x3(conv_general_dilated, x, kernel) + bias[None, None, None]).sum()

    arguments = normal(0, 1, 8, 8, 32), normal(1, 3, 3, 32, 32), normal(2, 32)
    got, expected = (
        jax.jit(jax.grad(functools.partial(loss, promote=promote), argnums=(0, 1, 2)))(*arguments)
        for promote in (convolution.promote_dtype, nn.dtypes.promote_dtype)
    )
    assert_close(got, expected, 1e-6)
    without_bias = convolution.promote_dtype(*arguments[:2], None, dtype=jnp.bfloat16)
    assert [a.dtype for a in without_bias[:2]] == [jnp.bfloat16] * 2
    assert without_bias[2] is None


def test_the_cpu_program_holds_no_convolution_and_no_branch():
    x, kernel = normal(0, 1, 8, 8, 32), normal(1, 3, 3, 32, 32)
    step = jax.jit(
        functools.partial(value_and_gradients, functools.partial(same_3x3, conv_general_dilated))
    )
    program = step.lower(x, kernel).compile().as_text()
    assert " dot(" in program
    assert " convolution(" not in program
    assert " conditional(" not in program


def test_an_unwanted_gradient_costs_nothing():
    x, kernel = normal(0, 1, 8, 8, 32), normal(1, 3, 3, 32, 32)

    def loss(x, kernel):
        return same_3x3(conv_general_dilated, x, kernel).sum()

    flops = {
        argnums: jax.jit(jax.grad(loss, argnums))
        .lower(x, kernel)
        .compile()
        .cost_analysis()["flops"]
        for argnums in (0, 1, (0, 1))
    }
    assert max(flops[0], flops[1]) < 0.7 * flops[(0, 1)]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_platform_gets_its_own_program(platform):
    def loss(x, kernel):
        return max_pool(same_3x3(conv_general_dilated, x, kernel)).sum()

    x, kernel = normal(0, 1, 8, 8, 32), normal(1, 3, 3, 32, 32)
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    program = export.export(gradient, platforms=[platform])(x, kernel).mlir_module()
    assert ("stablehlo.convolution" in program) == (platform != "cpu")
    # Whose sums have no fixed order on a GPU: a deterministic program must not have it there.
    assert ("stablehlo.select_and_scatter" in program) == (platform == "tpu")


def test_one_export_serves_several_platforms():
    x, kernel = normal(0, 1, 5, 6, 32), normal(1, 3, 3, 32, 32)
    function = jax.jit(functools.partial(same_3x3, conv_general_dilated))
    exported = export.export(function, platforms=PLATFORMS)(x, kernel)
    assert_close(exported.call(x, kernel), same_3x3(lax.conv_general_dilated, x, kernel))


def test_vmap_pmap_and_a_second_derivative_agree_with_lax():
    x, kernel = normal(0, 2, 1, 5, 6, 32), normal(1, 3, 3, 32, 32)

    def loss(conv, kernel, x):
        return (same_3x3(conv, x, kernel) ** 2).sum()

    def gradient_norm(conv, kernel, x):
        return (jax.grad(loss, 1)(conv, kernel, x) ** 2).sum()

    for transform in (jax.vmap, functools.partial(jax.pmap, devices=jax.local_devices()[:2])):
        got, expected = (
            transform(functools.partial(jax.value_and_grad(loss, 1), conv), in_axes=(None, 0))(
                kernel, x
            )
            for conv in (conv_general_dilated, lax.conv_general_dilated)
        )
        assert_close(got, expected)
    got, expected = (
        jax.jit(functools.partial(jax.grad(gradient_norm, 1), conv))(kernel, x[0])
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert_close(got, expected)


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        ({"features": 8, "kernel_size": (1, 1)}, 5),
        ({"features": 8, "kernel_size": (1, 1), "strides": 2}, 5),
        ({"features": 8, "kernel_size": (1, 1), "strides": (2, 1)}, 5),
        ({"features": 8, "kernel_size": (1, 1), "padding": 1}, 5),
        ({"features": 32, "kernel_size": (3, 3)}, 3),
        ({"features": 32, "kernel_size": (3, 3), "padding": "VALID"}, 32),
        ({"features": 32, "kernel_size": (3, 3), "strides": 2, "padding": 1}, 32),
        ({"features": 32, "kernel_size": (3, 3), "kernel_dilation": 2}, 32),
        ({"features": 32, "kernel_size": (3, 3), "input_dilation": 2, "padding": 1}, 32),
        ({"features": 64, "kernel_size": (3, 3), "feature_group_count": 2}, 64),
        ({"features": 32, "kernel_size": (3, 3), "padding": 1, "dtype": jnp.float16}, 32),
        ({"features": 8, "kernel_size": (7, 7), "strides": 2, "padding": 3}, 3),
    ],
    ids=str,
)
def test_every_kind_of_layer_equals_flax(layer, channels):
    x = normal(0, 1, 7, 10, channels)
    ours, flaxs = nn.Conv(**layer, conv_general_dilated=conv_general_dilated), nn.Conv(**layer)
    variables = flaxs.init(jax.random.key(1), x)
    got, expected = (
        jax.jit(
            jax.value_and_grad(
                lambda v, x, m=m: (m.apply(v, x) ** 2).sum().astype("float32"), argnums=(0, 1)
            )
        )(variables, x)
        for m in (ours, flaxs)
    )
    assert_close(got, expected)


def test_a_mistaken_shape_gets_the_message_of_lax():
    with pytest.raises(ValueError, match="feature dimension"):
        same_3x3(conv_general_dilated, normal(0, 1, 4, 4, 32), normal(1, 3, 3, 33, 32))


@pytest.mark.parametrize("height_width", [(4, 6), (5, 7)])
@pytest.mark.parametrize("window_stride_padding", [(2, 2, 0), (3, 2, 1), (3, 1, 0), (1, 2, 0)])
def test_max_pool_equals_flax_in_value_and_gradient_with_ties(height_width, window_stride_padding):
    # Whole numbers from a small range: nearly every patch holds its maximum more than once.
    x = jnp.round(normal(3, 2, *height_width, 3))
    window, stride, padding = window_stride_padding

    def flaxs(x):
        pads = ((padding, padding),) * 2
        return nn.max_pool(x, (window, window), (stride, stride), pads)

    def value_and_gradient(pool, x):
        y, pullback = jax.vjp(pool, x)
        return y, pullback(jnp.round(8 * normal(4, *y.shape)))[0]  # sums are exact

    ours = functools.partial(max_pool, window=window, stride=stride, padding=padding)
    got, expected = (
        jax.jit(functools.partial(value_and_gradient, pool))(x) for pool in (ours, flaxs)
    )
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def naive_windows(size, window, stride, padding, ceil):
    """The pixels under each window, by laying one after another."""
    windows, start = [], -padding
    while True:
        whole = start + window <= size + padding
        uncovered = start + window - stride < size + padding  # by the windows so far
        if not (whole or (ceil and uncovered and start < size)):
            return windows
        windows.append(range(max(start, 0), min(start + window, size)))
        start += stride


POOLS = [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 3, 1), (2, 3, 0), (5, 1, 2)]


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window_stride_padding", POOLS)
def test_output_size_counts_windows(window_stride_padding, ceil):
    for size in range(1, 40):
        windows = naive_windows(size, *window_stride_padding, ceil)
        assert output_size(size, *window_stride_padding, ceil) == len(windows)


def naive_pool_and_gradient(x, dy, window, stride, padding):
    """Rounds up; the gradient of a window goes to its first maximum in row-major order."""
    rows, columns = (naive_windows(n, window, stride, padding, True) for n in x.shape[1:3])
    y, dx = np.empty((x.shape[0], len(rows), len(columns), x.shape[3])), np.zeros(x.shape)
    for n, i, j, c in np.ndindex(y.shape):
        pixels = [(n, row, column, c) for row in rows[i] for column in columns[j]]
        best = max(pixels, key=lambda pixel: x[pixel])  # the first of several
        y[n, i, j, c] = x[best]
        dx[best] += dy[n, i, j, c]
    return y, dx


@pytest.mark.parametrize("platform", ["default", "tpu"])
@pytest.mark.parametrize("window_stride_padding", POOLS[:4])
def test_a_pool_that_rounds_up_equals_a_naive_one(monkeypatch, window_stride_padding, platform):
    # What other platforms run, run here.
    monkeypatch.setattr(
        convolution.lax, "platform_dependent", lambda *x, **branches: branches[platform](*x)
    )
    window, stride, padding = window_stride_padding
    pool = functools.partial(max_pool, window=window, stride=stride, padding=padding, ceil=True)
    rng = np.random.default_rng(0)
    for height, width in ((4, 7), (6, 5)):
        x = rng.integers(-3, 3, (2, height, width, 2)).astype(np.float32)  # with many ties
        shape = jax.eval_shape(pool, x).shape
        dy = rng.integers(-8, 9, shape).astype(np.float32)  # sums are exact
        y, dx = jax.jit(lambda x, dy: (pool(x), jax.vjp(pool, x)[1](dy)[0]))(x, dy)
        expected_y, expected_dx = naive_pool_and_gradient(x, dy, *window_stride_padding)
        np.testing.assert_array_equal(y, expected_y)
        np.testing.assert_array_equal(dx, expected_dx)


def test_max_pool_sends_the_gradient_of_a_tie_to_the_first():
    x = jnp.array([[1.0, 5.0], [5.0, 5.0]])[None, :, :, None]
    gradient = jax.jit(jax.grad(lambda x: max_pool(x).sum()))(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])


def test_max_pool_lets_nan_through_and_keeps_the_type():
    x = jnp.zeros((1, 4, 4, 1), jnp.bfloat16).at[0, 0, 0].set(jnp.nan).at[0, 3, 2].set(jnp.nan)
    y = max_pool(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(jnp.isnan(y)[0, :, :, 0], [[True, False], [False, True]])
