import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rpn_jax.models.rcnn import RCNN, frozen_paths_of, trainable_mask
from rpn_jax.models.rpn_head import RPNHead

# XLA takes several times as long to compile the default generator.
KEY = jax.random.key(0, impl="rbg")


class Pyramid(nn.Module):
    """Two levels of one width: the least that a backbone must be."""

    dtype: type = jnp.float32
    strides = (2, 4)

    def grid_hw(self, height, width):
        return ((height // 2, width // 2), (height // 4, width // 4))

    @nn.compact
    def __call__(self, images, train):
        c1 = nn.relu(nn.Conv(8, (2, 2), strides=2, dtype=self.dtype, name="c1")(images))
        return c1, nn.relu(nn.Conv(8, (2, 2), strides=2, dtype=self.dtype, name="c2")(c1))


def tiny(dtype=jnp.float32):
    return RCNN(Pyramid(dtype), RPNHead(num_anchors=3, channels=16, dtype=dtype))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(2, 8, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(random_variables, images):
    return random_variables(tiny(), images)


def test_levels_share_one_head_and_have_their_own_sizes(images, variables):
    model = tiny()
    logits, deltas = model.apply(variables, images)
    assert model.strides == (2, 4)
    assert model.grid_hw(8, 12) == ((4, 6), (2, 3))
    assert [level.shape for level in logits] == [(2, 4 * 6 * 3), (2, 2 * 3 * 3)]
    assert [level.shape for level in deltas] == [(2, 4 * 6 * 3, 4), (2, 2 * 3 * 3, 4)]
    assert set(variables["params"]["rpn"]) == {"conv", "objectness", "deltas"}


def head_by_hand(features, params):
    """The two siblings at every position of one image, before any reshaping."""
    kernel, bias = params["conv"]["kernel"], params["conv"]["bias"]
    height, width, _ = features.shape
    padded = np.pad(features, ((1, 1), (1, 1), (0, 0)))
    outputs = {"objectness": [], "deltas": []}
    for row in range(height):
        for column in range(width):
            patch = padded[row : row + 3, column : column + 3]
            hidden = np.maximum(np.tensordot(patch, kernel, 3) + bias, 0)
            for name, values in outputs.items():
                values.append(hidden @ params[name]["kernel"][0, 0] + params[name]["bias"])
    return np.array(outputs["objectness"]), np.array(outputs["deltas"])


def head_setup(random_variables, objectness):
    head = RPNHead(num_anchors=3, channels=16, objectness=objectness)
    features = np.random.default_rng(1).normal(size=(1, 3, 4, 8)).astype(np.float32)
    params = random_variables(head, features)["params"]
    by_hand = head_by_hand(features[0], params)
    return jax.jit(head.apply)({"params": params}, features), by_hand


def test_anchors_are_ordered_row_column_anchor(random_variables):
    (logits, deltas), (scores, expected_deltas) = head_setup(random_variables, "sigmoid")
    np.testing.assert_allclose(logits[0], scores.reshape(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(deltas[0], expected_deltas.reshape(-1, 4), rtol=1e-4, atol=1e-5)


def test_softmax_logits_are_object_minus_background(random_variables):
    (logits, _), (scores, _) = head_setup(random_variables, "softmax")
    assert scores.shape == (12, 6)
    expected = scores[:, 3:] - scores[:, :3]
    np.testing.assert_allclose(logits[0], expected.reshape(-1), rtol=1e-4, atol=1e-5)


def test_the_difference_has_the_softmax_loss_and_gradients():
    scores = 3 * np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    is_object = np.arange(50) % 2 == 0

    def softmax_loss(scores):
        log_probabilities = jax.nn.log_softmax(scores, axis=1)
        return -jnp.where(is_object, log_probabilities[:, 1], log_probabilities[:, 0]).sum()

    def logit_loss(scores):
        logits = scores[:, 1] - scores[:, 0]
        return -jnp.where(is_object, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)).sum()

    np.testing.assert_allclose(logit_loss(scores), softmax_loss(scores), rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(logit_loss)(scores), jax.grad(softmax_loss)(scores), atol=1e-6
    )


@pytest.mark.parametrize("objectness", ["sigmoid", "softmax"])
def test_new_layers_begin_with_deviation_one_hundredth_and_no_bias(objectness):
    head = RPNHead(num_anchors=9, channels=64, objectness=objectness)
    params = jax.jit(head.init)(KEY, jnp.zeros((1, 2, 2, 64)))["params"]
    for layer in params.values():
        kernel = np.asarray(layer["kernel"])
        # Five standard errors of a deviation from n samples, 1 / sqrt(2 n), and of a mean.
        np.testing.assert_allclose(kernel.std(), 0.01, rtol=5 / np.sqrt(2 * kernel.size))
        assert abs(kernel.mean()) < 5 * 0.01 / np.sqrt(kernel.size)
        np.testing.assert_array_equal(layer["bias"], 0)
    assert params["objectness"]["kernel"].shape[-1] == {"sigmoid": 9, "softmax": 18}[objectness]
    assert params["deltas"]["kernel"].shape[-1] == 36


def test_bfloat16_computes_nearly_the_same_and_returns_float32(images, variables):
    half = tiny(jnp.bfloat16)
    own = jax.eval_shape(half.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype("float32")}
    outputs = jax.jit(half.apply)(variables, images)
    expected = jax.jit(tiny().apply)(variables, images)
    for a, b in zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float32
        assert float(jnp.abs(a - b).max()) < 0.03 * float(jnp.abs(b).max())
        assert (a != b).any()


def test_jit_equals_eager_and_a_batch_equals_its_images(images, variables):
    model = tiny()
    apply = jax.jit(model.apply)
    eager = jax.tree.leaves(model.apply(variables, images))
    single = [jax.tree.leaves(apply(variables, images[i : i + 1])) for i in range(2)]
    for level, whole in enumerate(jax.tree.leaves(apply(variables, images))):
        np.testing.assert_allclose(eager[level], whole, atol=1e-5)
        parts = np.concatenate([single[0][level], single[1][level]])
        np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_the_key_decides_the_parameters(images):
    init = jax.jit(tiny().init)
    jax.tree.map(np.testing.assert_array_equal, init(KEY, images), init(KEY, images))
    other = init(jax.random.fold_in(KEY, 1), images)
    for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(init(KEY, images)), strict=True):
        assert a.ndim == 1 or (a != b).any()


@pytest.mark.parametrize("frozen_stages", [0, 1, 2])
def test_the_mask_is_false_in_the_frozen_prefix_alone(variables, frozen_stages):
    params = variables["params"]
    mask = trainable_mask(params, frozen_paths_of(frozen_stages))
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    for number in (1, 2):
        leaves = jax.tree.leaves(mask["backbone"][f"c{number}"])
        assert set(leaves) == {number > frozen_stages}
    assert set(jax.tree.leaves(mask["rpn"])) == {True}
