"""The CPU's forms of convolution from inside: matrices, bands, parts, what XLA makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from maps import NHWC, assert_close, normal, same_3x3, value_and_gradients

from rpn_jax.models.layers import cpu_convolution, winograd
from rpn_jax.models.layers.convolution import conv_general_dilated
from rpn_jax.models.layers.relu import relu

pytestmark = pytest.mark.backend


def test_the_matrices_give_an_exact_filter_in_one_dimension():
    signal, taps = np.arange(1.0, 7.0) ** 2, np.array([2.0, -1.0, 0.5])
    y = winograd._A_T @ ((winograd._G @ taps) * (winograd._B_T @ signal))
    # 2 * 1 - 4 + 9 / 2 = 2.5; 2 * 4 - 9 + 16 / 2 = 7; 18 - 16 + 12.5 = 14.5; 32 - 25 + 18 = 25.
    np.testing.assert_allclose(y, [2.5, 7.0, 14.5, 25.0], rtol=1e-12)


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


@pytest.mark.parametrize(("height", "width"), [(17, 22), (1, 1)])
@pytest.mark.parametrize(("window", "stride", "pad"), [(7, 2, 3), (3, 1, 1)])
@pytest.mark.parametrize("bytes_per_band", [cpu_convolution._BYTES_PER_BAND, 20_000])
def test_a_first_convolution_equals_lax_in_value_and_gradients(
    height, width, window, stride, pad, bytes_per_band, monkeypatch
):
    # With 20,000 bytes, 9 and 17 rows of outputs are 9 and 5 bands, the last of these not full.
    monkeypatch.setattr(cpu_convolution, "_BYTES_PER_BAND", bytes_per_band)
    x, kernel = normal(0, 2, height, width, 3), normal(1, window, window, 3, 8)

    def run(conv):
        pads = ((pad, pad), (pad, pad))
        strided = functools.partial(
            conv, window_strides=(stride, stride), padding=pads, dimension_numbers=NHWC
        )
        return jax.jit(functools.partial(value_and_gradients, strided))(x, kernel)

    assert_close(run(conv_general_dilated), run(lax.conv_general_dilated))


def test_the_cpu_program_holds_no_convolution_and_no_branch():
    x, kernel = normal(0, 1, 8, 8, 32), normal(1, 3, 3, 32, 32)
    step = jax.jit(
        functools.partial(value_and_gradients, functools.partial(same_3x3, conv_general_dilated))
    )
    program = step.lower(x, kernel).compile().as_text()
    assert " dot(" in program
    assert " convolution(" not in program
    assert " conditional(" not in program


def test_a_chain_of_sums_is_computed_once_on_a_cpu():
    def chain(x, weights):
        for weight in weights:
            x = relu(x + x @ weight)
        return (x**2).sum()

    arguments = jnp.ones((64, 32)), jnp.ones((8, 32, 32))
    text = jax.jit(jax.grad(chain, argnums=1)).lower(*arguments).as_text()
    assert text.count("optimization_barrier") == 8
