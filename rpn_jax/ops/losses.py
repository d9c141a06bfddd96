"""The two losses of a region proposal network (section 3.1.2 of the paper, equation 1).

An anchor labelled IGNORE adds exactly 0 to a loss and to its gradient, even where the network's
output there is infinite or NaN.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from rpn_jax.ops.boxes import as_boxes
from rpn_jax.ops.matching import Label
from rpn_jax.typing import Array, Targets


def smooth_l1(x: Float[Array, "*N"], beta: float | int) -> Float[Array, "*N"]:
    """Returns `0.5 x² / beta` where `|x| < beta` and `|x| - 0.5 beta` elsewhere.

    Args:
        x: errors.
        beta: where the square ends. 0 is the L1 loss; py-faster-rcnn's `sigma` is
            `1 / sqrt(beta)`, and its 3 is 1/9 here.

    >>> smooth_l1([0.5, -2.0], beta=1).tolist()
    [0.125, 1.5]
    """
    x = jnp.asarray(x)
    magnitude = jnp.abs(x)
    if beta == 0:
        return magnitude
    return jnp.where(magnitude < beta, 0.5 * x * x / beta, magnitude - 0.5 * beta)


def objectness_loss(logits: Float[Array, " A"], labels: Int[Array, " A"]) -> Float[Array, ""]:
    """Returns the cross-entropy of the positive and negative anchors, summed.

    Args:
        logits: one per anchor: the difference of the two that the paper's softmax has.
        labels: of the anchors, see `Label`.

    >>> objectness_loss([0.0, 0.0, 9.0], [1, 0, -1]).round(3)  # twice log 2
    Array(1.386, dtype=float32)
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    sampled = labels != Label.IGNORE
    # The guard is on the operand: 0 · NaN would come back in the gradient.
    logits = jnp.where(sampled, logits.astype(jnp.float32), 0)
    losses = jax.nn.softplus(jnp.where(labels == Label.POSITIVE, -logits, logits))
    return jnp.sum(jnp.where(sampled, losses, 0))


def box_loss(
    deltas: Float[Array, "A 4"],
    target_deltas: Float[Array, "A 4"],
    labels: Int[Array, " A"],
    beta: float | int = 1 / 9,
) -> Float[Array, ""]:
    """Returns the smooth L1 loss of the positive anchors, summed over them and the 4 deltas.

    Args:
        deltas: of the network.
        target_deltas: what they should have been.
        labels: of the anchors, see `Label`.
        beta: see `smooth_l1`.

    >>> box_loss([[0.5, 0, 0, 0], [9, 9, 9, 9]], [[0, 0, 0, 0], [0, 0, 0, 0]], [1, 0], beta=1)
    Array(0.125, dtype=float32)
    """
    deltas, target_deltas, labels = as_boxes(deltas), as_boxes(target_deltas), jnp.asarray(labels)
    errors = deltas.astype(jnp.float32) - target_deltas
    return jnp.sum(smooth_l1(jnp.where((labels == Label.POSITIVE)[:, None], errors, 0), beta))


def rpn_loss(
    logits: Float[Array, " A"],
    deltas: Float[Array, "A 4"],
    targets: Targets,
    *,
    normalizer: str = "paper",
    balance: float | int = 10.0,
    beta: float | int = 1 / 9,
    batch_size_per_image: int = 256,
    num_positions: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the loss of one image, and its two parts as they enter it.

    Args:
        logits: objectness of each anchor.
        deltas: box deltas of each anchor.
        targets: what they should have been, after sampling.
        normalizer: "paper" divides the objectness loss by `batch_size_per_image` and the box loss
            by `num_positions`. "sampled" divides both by `batch_size_per_image`, as detectron2
            does; with a balance of 1 that is nearly the paper's 10 (10 / 2400 against 1 / 256).
            Neither divides by the number of anchors that were in fact sampled, as torchvision
            does: an image with few anchors would weigh each of them more.
        balance: the paper's lambda, which multiplies the box loss, by either normalizer.
        beta: where the smooth L1 loss turns from quadratic to linear.
        batch_size_per_image: how many anchors the sampling was asked for.
        num_positions: rows x columns of the feature map, of all levels together; the paper's
            N_reg, about 2400. Needed for "paper".

    Returns:
        The loss, and `{"loss_objectness": …, "loss_box": …}`, which add up to it.

    Raises:
        ValueError: `normalizer` is neither of the two, or "paper" lacks `num_positions`.

    >>> targets = Targets(labels=[1, 0], deltas=[[0, 0, 0, 0], [0, 0, 0, 0]], matches=None)
    >>> loss, parts = rpn_loss([0.0, 0.0], jnp.full((2, 4), 0.5), targets, num_positions=100)
    >>> {name: round(float(part), 4) for name, part in parts.items()}
    {'loss_objectness': 0.0054, 'loss_box': 0.1778}
    """
    if normalizer == "paper":
        if num_positions is None:
            raise ValueError("normalizer 'paper' needs num_positions, rows x columns of the map")
        box_scale = balance / num_positions
    elif normalizer == "sampled":
        box_scale = balance / batch_size_per_image
    else:
        raise ValueError(f"normalizer {normalizer!r} is not 'paper' or 'sampled'")
    parts = {
        "loss_objectness": objectness_loss(logits, targets.labels) / batch_size_per_image,
        "loss_box": box_loss(deltas, targets.deltas, targets.labels, beta) * box_scale,
    }
    return parts["loss_objectness"] + parts["loss_box"], parts
