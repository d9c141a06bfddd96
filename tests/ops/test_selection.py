import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rpn_jax.ops.selection import top_k

_top_k = jax.jit(top_k, static_argnums=1)


def expected(scores, k):
    order = np.argsort(-scores, kind="stable")[:k]
    return scores[order], order


# Many of the scores, which a CPU sorts, and few.
@pytest.mark.parametrize("k", [0, 1, 40, 500])
def test_the_best_come_by_falling_score_eager_jitted_and_batched(k):
    scores = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32).round(1)
    scores[:, ::7] = -np.inf
    scores[:, 3] = np.inf
    batched = jax.vmap(lambda x: _top_k(x, k))(scores)
    for i in range(3):
        best, order = expected(scores[i], k)
        for values, indices in (_top_k(scores[i], k), top_k(scores[i], k), (x[i] for x in batched)):
            np.testing.assert_array_equal(values, best)
            np.testing.assert_array_equal(indices, order)


floats = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38]),
    st.floats(width=32, allow_nan=False),
)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, 12, elements=floats))
def test_of_equal_scores_the_lower_index_comes_first(scores):
    # (Numbers below the normal ones are 0 to some processors.)
    scores = np.where(np.abs(scores) < np.finfo(np.float32).tiny, np.copysign(0, scores), scores)
    for k in (12, 1):
        values, indices = _top_k(scores, k)
        best, order = expected(scores, k)
        np.testing.assert_array_equal(indices, order)
        np.testing.assert_array_equal(values, best)


def test_a_nan_comes_first():
    scores = np.array([1, np.nan, np.inf], np.float32)
    for k in (3, 1):
        assert _top_k(scores, k)[1].tolist() == [1, 2, 0][:k]


def test_nothing_to_choose_from():
    values, indices = top_k(np.zeros(0, np.float32), 0)
    assert values.shape == indices.shape == (0,)
    assert indices.dtype == np.int32
