"""The rectifier that keeps its output, against that of Flax, on every platform's program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rpn_jax.models.layers.relu import relu


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_gradient_and_tangent_are_those_of_flax(dtype):
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0, -jnp.inf, jnp.inf, jnp.nan], dtype)
    noise = jnp.arange(1, 9, dtype=dtype)
    results = []
    for function in (relu, nn.relu):
        y, pullback = jax.jit(functools.partial(jax.vjp, function))(x)
        results.append((y, *pullback(noise), jax.jvp(function, (x,), (noise,))[1]))
    for got, expected in zip(*results, strict=True):
        assert got.dtype == dtype
        np.testing.assert_array_equal(np.float32(got), np.float32(expected))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_it_is_a_plain_maximum(platform):
    lowered = jax.jit(relu).trace(jnp.ones(3)).lower(lowering_platforms=(platform,))
    assert "optimization_barrier" not in lowered.as_text()
