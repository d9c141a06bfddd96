import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peer_cases import SAMPLED, head_outputs_and_targets, peer_answers

from rpn_jax.ops.losses import rpn_loss
from rpn_jax.typing import Matches, Targets

ANSWERS = peer_answers("losses")


@jax.jit
def losses(logits, deltas, labels, target_deltas):
    """The loss and its parts, means over the images."""

    def image_loss(logits, deltas, labels, target_deltas):
        matches = Matches(labels, labels, jnp.zeros(labels.shape))
        targets = Targets(labels, target_deltas, matches)
        return rpn_loss(logits, deltas, targets, normalizer="sampled", balance=1, beta=1 / 9)

    loss, parts = jax.vmap(image_loss)(logits, deltas, labels, target_deltas)
    return jnp.mean(loss), jax.tree.map(jnp.mean, parts)


@pytest.mark.parametrize("name", SAMPLED)
def test_losses_and_gradients_are_torchvisions(name):
    logits, deltas, labels, target_deltas = head_outputs_and_targets(*SAMPLED[name])
    (_, parts), gradients = jax.value_and_grad(losses, (0, 1), has_aux=True)(
        logits, deltas, labels, target_deltas
    )
    # torchvision divides by the number of anchors that were found, here it is always by 256.
    found = sum(SAMPLED[name]) / 256
    for part, value in parts.items():
        np.testing.assert_allclose(value, found * ANSWERS[f"{name}/{part}"], rtol=1e-5)
    for gradient, output in zip(gradients, ("logits", "deltas"), strict=True):
        expected = found * ANSWERS[f"{name}/d_{output}"]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, atol=1e-6 * scale, rtol=1e-4)
        np.testing.assert_array_equal(gradient[labels == -1], 0)
