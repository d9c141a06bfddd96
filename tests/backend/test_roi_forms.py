"""RoIAlign's sums in the forms that GPUs and TPUs run, on a CPU beside the CPU's own form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rpn_jax.ops.roi_sums import Samples, sum_of_samples

pytestmark = pytest.mark.backend
REGIONS, MOST = 19, 4  # no multiple of the groups; samples of a bin along an axis


def drawn_samples(rng, bins, extent):
    """Samples of two images' regions, from none to `MOST` in each bin."""
    shape = 2, REGIONS, bins, MOST
    used = np.arange(MOST) < rng.integers(0, MOST + 1, (2, REGIONS, 1, 1))
    return Samples(
        np.float32(rng.uniform(0, extent - 1, shape)),
        np.float32(rng.uniform(0.1, 1, shape) * used),
        np.full((2, REGIONS), extent, np.int32),
    )


def test_the_forms_for_accelerators_equal_the_cpus(monkeypatch):
    rng = np.random.default_rng(0)
    levels = [np.float32(rng.normal(size=(2, 6, 8, 3))), np.float32(rng.normal(size=(2, 6, 8, 3)))]
    samples = drawn_samples(rng, 2, 6), drawn_samples(rng, 3, 8)
    level = rng.integers(0, 2, (2, REGIONS)).astype(np.int32)

    def run(platform):
        def choose(*operands, default=None, **forms):
            return forms.get(platform, default)(*operands)

        def sums_and_gradient(levels, samples):
            pool = jax.vmap(lambda *given: sum_of_samples(given[0], *given[1], given[2]))
            sums, gradient = jax.vjp(lambda levels: pool(levels, samples, level), levels)
            return sums, gradient(jnp.sin(jnp.arange(sums.size)).reshape(sums.shape))

        monkeypatch.setattr(lax, "platform_dependent", choose)
        return jax.jit(sums_and_gradient)(levels, samples)

    expected = run("cpu")
    for platform in ("cuda", "tpu"):
        close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
        jax.tree.map(close, run(platform), expected)
