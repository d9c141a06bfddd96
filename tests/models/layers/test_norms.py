import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rpn_jax.models.layers.norms import EPSILON, FrozenBatchNorm, normalize


class OneNorm(nn.Module):
    """`normalize` wants to be called inside a module."""

    norm: str
    train: bool = False
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x):
        return normalize(x, self.norm, train=self.train, dtype=self.dtype, name="norm")


def features(seed=0, shape=(8, 3, 4, 6)):
    """Channels of different means and deviations."""
    x = np.random.default_rng(seed).normal(size=shape) * np.arange(1, shape[-1] + 1)
    return (x + np.arange(shape[-1]) ** 2).astype(np.float32)


def test_frozen_batch_norm_by_hand():
    # (5 - 1) / sqrt(4 + 1e-5) * 3 + 0.5 = 6.5 within 1e-5
    constants = {"mean": [1.0], "var": [4.0], "scale": [3.0], "bias": [0.5]}
    constants = {name: jnp.array(value) for name, value in constants.items()}
    y = FrozenBatchNorm().apply({"batch_stats": constants}, jnp.full((1, 1, 1, 1), 5.0))
    np.testing.assert_allclose(y, [[[[6.5]]]], atol=2e-5)


def test_frozen_batch_norm_has_no_parameters_and_learns_no_statistics():
    module = OneNorm("frozen_batch_norm", train=True)
    x = features()
    variables = jax.jit(module.init)(jax.random.key(0), x)
    assert set(variables) == {"batch_stats"}
    y, updated = module.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y, x, rtol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def sync_variables():
    return OneNorm("sync_batch_norm").init(jax.random.key(0), features())


def test_sync_batch_norm_over_shards_equals_the_big_batch():
    x = features()
    module = OneNorm("sync_batch_norm", train=True)
    apply = functools.partial(module.apply, sync_variables(), mutable=["batch_stats"])
    shards, updated = jax.jit(jax.vmap(apply, axis_name="data", out_axes=(0, None)))(
        x.reshape(4, 2, *x.shape[1:])
    )
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(var + EPSILON)
    np.testing.assert_allclose(shards.reshape(x.shape), expected, atol=2e-4)
    stats = updated["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-4)


def test_sync_batch_norm_gradients_over_shards_equal_the_big_batch():
    x = features()
    weights = features(1)
    module = OneNorm("sync_batch_norm", train=True)

    def loss(x, weights):
        y, _ = module.apply(sync_variables(), x, mutable=["batch_stats"])
        return jax.lax.psum((weights * y**2).sum(), "data")

    def gradients(num_shards):
        shape = (num_shards, x.shape[0] // num_shards, *x.shape[1:])

        def total(x):
            return jax.vmap(loss, axis_name="data")(x, weights.reshape(shape))[0]

        return jax.jit(jax.grad(total))(x.reshape(shape)).reshape(x.shape)

    np.testing.assert_allclose(gradients(4), gradients(1), rtol=1e-3, atol=1e-3)


def test_sync_batch_norm_evaluates_with_the_running_statistics():
    x = features()
    variables = sync_variables()
    stats = {"mean": jnp.arange(6.0), "var": jnp.arange(6.0) + 2}
    variables = {**variables, "batch_stats": {"norm": stats}}
    y = OneNorm("sync_batch_norm").apply(variables, x)
    expected = (x - np.arange(6)) / np.sqrt(np.arange(6) + 2 + EPSILON)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (6, 2), (3, 1)])
def test_group_norm_has_32_groups_or_the_most_that_divide(channels, groups):
    x = features(shape=(2, 3, 4, channels))
    module = OneNorm("group_norm", train=True)
    y = jax.jit(module.init_with_output)(jax.random.key(0), x)[0]
    grouped = x.reshape(2, 12, groups, -1)
    mean = grouped.mean((1, 3), keepdims=True)
    var = grouped.var((1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(var + EPSILON)).reshape(x.shape)
    np.testing.assert_allclose(y, expected, atol=1e-3)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "sync_batch_norm", "group_norm"])
def test_bfloat16_is_only_the_type_of_the_output(norm):
    x = features(shape=(2, 3, 4, 32))
    module = OneNorm(norm, dtype=jnp.bfloat16)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y = module.apply(variables, x)
    assert y.dtype == jnp.bfloat16
    expected = OneNorm(norm).apply(variables, x)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "group_norm"])
def test_a_constant_image_has_finite_gradients(norm):
    module = OneNorm(norm)
    x = np.zeros((1, 2, 2, 32), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: module.apply(variables, x).sum()))(x)
    assert np.isfinite(gradient).all()


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="layer_norm"):
        OneNorm("layer_norm").init(jax.random.key(0), features())
