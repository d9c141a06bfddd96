"""The pool's form for TPUs, run here."""

import pytest
from jax import lax
from maps import POOLS, assert_rounds_up_as_a_naive_pool

from rpn_jax.models.layers.pooling import max_pool

pytestmark = pytest.mark.backend


@pytest.mark.parametrize("platform", ["tpu"])
@pytest.mark.parametrize("window_stride_padding", POOLS[:4])
def test_a_pool_that_rounds_up_equals_a_naive_one(monkeypatch, window_stride_padding, platform):
    # What other platforms run, run here.
    monkeypatch.setattr(lax, "platform_dependent", lambda *x, **branches: branches[platform](*x))
    assert_rounds_up_as_a_naive_pool(max_pool, window_stride_padding)
