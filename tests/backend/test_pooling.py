"""The pool's form for TPUs, run here."""

import functools

import jax
import numpy as np
import pytest
from jax import lax
from maps import POOLS, naive_pool_and_gradient

from rpn_jax.models.layers.pooling import max_pool

pytestmark = pytest.mark.backend


@pytest.mark.parametrize("platform", ["tpu"])
@pytest.mark.parametrize("window_stride_padding", POOLS[:4])
def test_a_pool_that_rounds_up_equals_a_naive_one(monkeypatch, window_stride_padding, platform):
    # What other platforms run, run here.
    monkeypatch.setattr(lax, "platform_dependent", lambda *x, **branches: branches[platform](*x))
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
