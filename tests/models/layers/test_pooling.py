"""The quick pool against Flax's and a slow one, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from maps import (
    POOLS,
    assert_rounds_up_as_a_naive_pool,
    naive_windows,
    normal,
)

from rpn_jax.models.layers.pooling import max_pool
from rpn_jax.models.layers.windows import output_size


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


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window_stride_padding", POOLS)
def test_output_size_counts_windows(window_stride_padding, ceil):
    for size in range(1, 40):
        windows = naive_windows(size, *window_stride_padding, ceil)
        assert output_size(size, *window_stride_padding, ceil) == len(windows)


def test_max_pool_sends_the_gradient_of_a_tie_to_the_first():
    x = jnp.array([[1.0, 5.0], [5.0, 5.0]])[None, :, :, None]
    gradient = jax.jit(jax.grad(lambda x: max_pool(x).sum()))(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])


def test_max_pool_lets_nan_through_and_keeps_the_type():
    x = jnp.zeros((1, 4, 4, 1), jnp.bfloat16).at[0, 0, 0].set(jnp.nan).at[0, 3, 2].set(jnp.nan)
    y = max_pool(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(jnp.isnan(y)[0, :, :, 0], [[True, False], [False, True]])


@pytest.mark.parametrize("window_stride_padding", POOLS[:4])
def test_a_pool_that_rounds_up_equals_a_naive_one(window_stride_padding):
    assert_rounds_up_as_a_naive_pool(max_pool, window_stride_padding)
