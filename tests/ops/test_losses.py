import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rpn_jax.ops.losses import box_loss, objectness_loss, rpn_loss, smooth_l1
from rpn_jax.typing import Matches, Targets

LABELS = np.array([1, 0, -1, 1], np.int32)
LOGITS = np.array([2, -1, 5, 0], np.float32)
DELTAS = np.array([[0.5, 0, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9], [0, 0, -2, 0.1]], np.float32)
# log(1 + e^-2) + log(1 + e^-1) + log 2
OBJECTNESS = 0.126928 + 0.313262 + 0.693147
# With beta = 1: 0.5·0.25, 2 - 0.5 and 0.5·0.01.
BOX = 0.125 + 1.5 + 0.005


def targets_of(labels, deltas):
    matches = Matches(labels=labels, gt_index=labels * 0, iou=np.zeros(len(labels), np.float32))
    return Targets(labels=labels, deltas=deltas, matches=matches)


TARGETS = targets_of(LABELS, np.zeros((4, 4), np.float32))


def test_smooth_l1():
    x = np.array([-3, -0.5, 0, 0.1, 1], np.float32)
    np.testing.assert_allclose(smooth_l1(x, 1), [2.5, 0.125, 0, 0.005, 0.5], rtol=1e-6)
    # sigma = 3 of py-faster-rcnn: 0.5·9·x² below 1/9, |x| - 0.5/9 above.
    expected = [3 - 1 / 18, 0.5 - 1 / 18, 0, 0.045, 1 - 1 / 18]
    np.testing.assert_allclose(smooth_l1(x, 1 / 9), expected, rtol=1e-6)
    np.testing.assert_array_equal(smooth_l1(x, 0), np.abs(x))


@pytest.mark.parametrize("beta", [0, 1 / 9, 1])
def test_smooth_l1_has_a_finite_gradient_everywhere(beta):
    x = jnp.array([0, beta, -beta, 1e30])
    gradient = jax.jit(jax.vmap(jax.grad(lambda x: smooth_l1(x, beta))))(x)
    assert (jnp.abs(gradient) <= 1).all()


def test_objectness_loss_sums_the_cross_entropy_of_the_sampled():
    np.testing.assert_allclose(objectness_loss(LOGITS, LABELS), OBJECTNESS, rtol=1e-5)
    gradient = jax.jit(jax.grad(objectness_loss))(LOGITS, LABELS)
    sigmoid = 1 / (1 + np.exp(-LOGITS))
    np.testing.assert_allclose(gradient, [sigmoid[0] - 1, sigmoid[1], 0, -0.5], rtol=1e-5)


def test_objectness_loss_of_extreme_logits_is_finite():
    logits = jnp.array([1e4, -1e4, 1e4, -1e4])
    loss, gradient = jax.jit(jax.value_and_grad(objectness_loss))(logits, jnp.array([1, 1, 0, 0]))
    np.testing.assert_allclose(loss, 2e4)
    np.testing.assert_allclose(gradient, [0, -1, 1, 0], atol=1e-6)


def test_box_loss_sums_over_the_positives():
    np.testing.assert_allclose(box_loss(DELTAS, TARGETS.deltas, LABELS, 1), BOX, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_ignored_anchors_add_exactly_nothing_whatever_the_network_said(bad):
    ignored = LABELS == -1
    logits = np.where(ignored, np.float32(bad), LOGITS)
    deltas = np.where(ignored[:, None], np.float32(bad), DELTAS)

    def loss(logits, deltas):
        return rpn_loss(logits, deltas, TARGETS, num_positions=4)[0]

    loss = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, gradients = loss(logits, deltas)
    clean, clean_gradients = loss(LOGITS, DELTAS)
    assert value == clean
    for gradient, expected in zip(gradients, clean_gradients, strict=True):
        np.testing.assert_array_equal(gradient, expected)
        np.testing.assert_array_equal(gradient[ignored], 0)


def test_nothing_sampled_is_no_loss():
    targets = targets_of(np.full(4, -1, np.int32), TARGETS.deltas)
    assert rpn_loss(LOGITS, DELTAS, targets, num_positions=4)[0] == 0


def test_rpn_loss_normalised_as_in_the_paper():
    loss, parts = rpn_loss(
        LOGITS, DELTAS, TARGETS, balance=10, beta=1, batch_size_per_image=8, num_positions=40
    )
    np.testing.assert_allclose(parts["loss_objectness"], OBJECTNESS / 8, rtol=1e-5)
    np.testing.assert_allclose(parts["loss_box"], 10 * BOX / 40, rtol=1e-5)
    np.testing.assert_allclose(loss, OBJECTNESS / 8 + BOX / 4, rtol=1e-5)


def test_rpn_loss_normalised_by_the_sample():
    loss, parts = rpn_loss(
        LOGITS,
        DELTAS,
        TARGETS,
        normalizer="sampled",
        balance=3,
        beta=1,
        batch_size_per_image=8,
    )
    np.testing.assert_allclose(parts["loss_objectness"], OBJECTNESS / 8, rtol=1e-5)
    np.testing.assert_allclose(parts["loss_box"], 3 * BOX / 8, rtol=1e-5)
    np.testing.assert_allclose(loss, (OBJECTNESS + 3 * BOX) / 8, rtol=1e-5)


def test_rpn_loss_refuses_what_it_cannot_normalise():
    with pytest.raises(ValueError, match="num_positions"):
        rpn_loss(LOGITS, DELTAS, TARGETS)
    with pytest.raises(ValueError, match="'mean'"):
        rpn_loss(LOGITS, DELTAS, TARGETS, normalizer="mean")


def test_rpn_loss_is_float32_for_bfloat16_outputs_and_the_same_jitted_and_batched():
    logits, deltas = jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(DELTAS, jnp.bfloat16)

    def loss(logits, deltas, targets):
        return rpn_loss(logits, deltas, targets, num_positions=4)

    eager, parts = loss(logits, deltas, TARGETS)
    assert {eager.dtype} | {part.dtype for part in parts.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(jax.jit(loss)(logits, deltas, TARGETS)[0], eager, rtol=1e-6)
    pair = jax.tree.map(lambda x: np.stack([x, x]), (LOGITS, DELTAS, TARGETS))
    expected = loss(LOGITS, DELTAS, TARGETS)[0]
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(*pair)[0], [expected, expected], rtol=1e-6)


_loss = jax.jit(lambda *x: rpn_loss(*x, num_positions=4)[0])


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.float32, 8, elements=st.floats(-50, 50, width=32)),
    hnp.arrays(np.int32, 8, elements=st.integers(-1, 1)),
    hnp.arrays(np.float32, 5, elements=st.floats(width=32)),
)
def test_padding_changes_nothing(logits, labels, junk):
    deltas = np.stack([logits, logits / 2, -logits, logits * 0], axis=1)
    plain = _loss(logits, deltas, targets_of(labels, np.zeros((8, 4), np.float32)))
    padded = _loss(
        np.concatenate([logits, junk]),
        np.concatenate([deltas, np.tile(junk[:, None], (1, 4))]),
        targets_of(np.concatenate([labels, -np.ones(5, np.int32)]), np.zeros((13, 4), np.float32)),
    )
    np.testing.assert_allclose(padded, plain, rtol=1e-6)
    assert np.isfinite(plain)
    assert plain >= 0
