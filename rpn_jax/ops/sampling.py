"""The mini-batch of an image: a few hundred of its anchors."""

import jax.numpy as jnp
from jaxtyping import Bool, Int, PRNGKeyArray, UInt32

from rpn_jax.ops.matching import Label
from rpn_jax.ops.random import threefry, words_of
from rpn_jax.ops.selection import top_k
from rpn_jax.typing import Array

# Random words per row: XLA computes rows on a CPU faster than one long array.
_LANES = 1024


def sample_anchors(
    key: PRNGKeyArray,
    labels: Int[Array, " A"],
    num_samples: int = 256,
    positive_fraction: float | int = 0.5,
) -> tuple[Int[Array, " P"], Int[Array, " N"]]:
    """Returns the positives and the negatives of a random mini-batch, as indices of anchors.

    Section 3.1.3 of the paper: at most `floor(num_samples * positive_fraction)` positives, and
    negatives for the rest; fewer than `num_samples` in all only where the negatives run out.
    Every subset of positives is as likely as any other of its size, and so are the negatives.

    Both are padded with A, A + 1, …, which are no anchors. The draw depends on the key and on the
    place of each anchor alone: IGNORE labels appended to `labels` change nothing.

    Args:
        key: of this image.
        labels: of its anchors, see `Label`.
        num_samples: the size of the mini-batch.
        positive_fraction: the largest part of it that is positive.

    >>> import jax
    >>> labels = [1, 1, 1, 0, 0, 0, -1]
    >>> positives, negatives = sample_anchors(jax.random.key(0), labels, 4, 0.5)
    >>> len(set(positives.tolist()) & {0, 1, 2}), len(set(negatives.tolist()) & {3, 4, 5})
    (2, 2)
    """
    labels = jnp.asarray(labels)
    count = labels.shape[0]
    words = threefry(key, (-(-count // (2 * _LANES)), _LANES))
    return _draw(labels, words.reshape(-1)[:count], num_samples, positive_fraction)


def _draw(
    labels: Int[Array, " A"],
    words: UInt32[Array, " A"],
    num_samples: int,
    positive_fraction: float | int,
) -> tuple[Int[Array, " P"], Int[Array, " N"]]:
    """Returns the positives and the negatives of a mini-batch; see `sample_anchors`."""
    # Each anchor draws a lot and the highest lots win. Lots are floats because XLA has a fast top_k
    # on a CPU for nothing else (0.07 ms against 3 for 17,100 integers); of two equal ones, one pair
    # in 16 million, the lower index wins.
    count, lots = len(labels), (words >> 8).astype(jnp.float32)

    def draw(label, limit, wanted):
        highest, winners = top_k(jnp.where(labels == label, lots, -1), min(limit, count))
        number = jnp.minimum(jnp.sum(highest >= 0), wanted)
        place = jnp.arange(len(winners))
        return jnp.where(place < number, winners, count + place), number

    most = int(num_samples * positive_fraction)
    positives, number = draw(Label.POSITIVE, most, most)
    negatives, _ = draw(Label.NEGATIVE, num_samples, num_samples - number)
    return positives, negatives


def sample_slots(
    key: PRNGKeyArray,
    labels: Int[Array, " A"],
    num_samples: int = 128,
    positive_fraction: float | int = 0.25,
    numbers: Int[Array, " A"] | None = None,
) -> tuple[Int[Array, " R"], Bool[Array, " R"]]:
    """Returns a mini-batch as of `sample_anchors` in exactly `num_samples` slots, positives first.

    The draw depends on the key and on the numbers of the boxes, but not on their order. Proposals
    come by their scores: if the draw followed that order, two scores that differ by rounding alone
    would change it, and a run on two devices would soon train on other regions than on one.

    Args:
        key: of this image.
        labels: of its boxes, see `Label`.
        num_samples: R, the size of the mini-batch.
        positive_fraction: the largest part of it that is positive.
        numbers: a number for each box, which no other has; by default its place.

    Returns:
        Indices into `labels`, 0 in empty slots, and True where the slot is not empty.

    >>> import jax
    >>> index, valid = sample_slots(jax.random.key(0), [0, -1, 1], num_samples=4)
    >>> index[valid].tolist()
    [2, 0]
    """
    labels = jnp.asarray(labels)
    count = labels.shape[0]
    numbers = jnp.arange(count) if numbers is None else numbers
    numbers = numbers.astype(jnp.uint32)
    words = jnp.take_along_axis(words_of(key, numbers // 2), numbers[:, None] % 2, axis=1)[:, 0]
    positives, negatives = _draw(labels, words, num_samples, positive_fraction)
    slots = jnp.arange(num_samples)
    number = jnp.sum(positives < count)
    padding = jnp.full(num_samples, count, positives.dtype)
    of_negatives = jnp.concatenate([negatives, padding])[jnp.maximum(slots - number, 0)]
    of_positives = jnp.concatenate([positives, padding])[slots]
    index = jnp.where(slots < number, of_positives, of_negatives)
    valid = index < count
    return jnp.where(valid, index, 0), valid


def subsample_labels(
    key: PRNGKeyArray,
    labels: Int[Array, " A"],
    num_samples: int = 256,
    positive_fraction: float | int = 0.5,
) -> Int[Array, " A"]:
    """Keeps the labels of the mini-batch of `sample_anchors` and sets the others to IGNORE.

    Args:
        key: of this image.
        labels: of its anchors, see `Label`.
        num_samples: the size of the mini-batch.
        positive_fraction: the largest part of it that is positive.

    >>> import jax
    >>> subsample_labels(jax.random.key(0), [1, 0, 0, -1], num_samples=256).tolist()
    [1, 0, 0, -1]
    """
    labels = jnp.asarray(labels)
    positives, negatives = sample_anchors(key, labels, num_samples, positive_fraction)
    return labels_of_sample(positives, negatives, labels.shape[0])


def labels_of_sample(
    positives: Int[Array, " P"], negatives: Int[Array, " N"], num_anchors: int
) -> Int[Array, " A"]:
    """Returns the labels of all anchors, IGNORE outside the mini-batch."""
    return (
        jnp.full(num_anchors, Label.IGNORE)
        .at[positives].set(Label.POSITIVE, mode="drop", unique_indices=True)
        .at[negatives].set(Label.NEGATIVE, mode="drop", unique_indices=True)
    )  # fmt: skip
