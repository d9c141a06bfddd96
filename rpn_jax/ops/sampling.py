"""The mini-batch of an image: a few hundred of its anchors."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Int, PRNGKeyArray, UInt32

from rpn_jax.ops.matching import Label
from rpn_jax.ops.selection import top_k
from rpn_jax.typing import Array

# Lots in a row, two of each cipher: XLA computes rows on a CPU 6 % faster than one long array.
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
    """
    count = labels.shape[0]
    # Each anchor draws a lot and the highest lots win. Lots are floats because XLA has a fast top_k
    # on a CPU for nothing else (0.07 ms against 3 for 17,100 integers); of two equal ones, one pair
    # in 16 million, the lower index wins.
    words = threefry(key, (-(-count // (2 * _LANES)), _LANES))
    lots = (words >> 8).astype(jnp.float32).reshape(-1)[:count]

    def draw(label, limit, wanted):
        highest, winners = top_k(jnp.where(labels == label, lots, -1), min(limit, count))
        number = jnp.minimum(jnp.sum(highest >= 0), wanted)
        place = jnp.arange(len(winners))
        return jnp.where(place < number, winners, count + place), number

    most = int(num_samples * positive_fraction)
    positives, number = draw(Label.POSITIVE, most, most)
    negatives, _ = draw(Label.NEGATIVE, num_samples, num_samples - number)
    return positives, negatives


def subsample_labels(
    key: PRNGKeyArray,
    labels: Int[Array, " A"],
    num_samples: int = 256,
    positive_fraction: float | int = 0.5,
) -> Int[Array, " A"]:
    """Keeps the labels of the mini-batch of `sample_anchors` and sets the others to IGNORE."""
    positives, negatives = sample_anchors(key, labels, num_samples, positive_fraction)
    return labels_of_sample(positives, negatives, labels.shape[0])


def labels_of_sample(
    positives: Int[Array, " P"], negatives: Int[Array, " N"], num_anchors: int
) -> Int[Array, " A"]:
    """Returns the labels of all anchors, of which those of the mini-batch alone have a say."""
    return (
        jnp.full(num_anchors, Label.IGNORE)
        .at[positives].set(Label.POSITIVE, mode="drop", unique_indices=True)
        .at[negatives].set(Label.NEGATIVE, mode="drop", unique_indices=True)
    )  # fmt: skip


def threefry(key: PRNGKeyArray, shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    """Returns random bits: the two words of the cipher of each of 0, 1, 2, … under the key.

    Threefry-2x32 in 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"). The
    words are those of `jax.random.split(key, shape)`, whose rounds are a loop of small operations
    on a CPU; here XLA makes one operation of them, 2.6 to 5 times as fast. Both words are used,
    of which `jax.random.bits` makes one. A key of another kind lends its first two words.
    """
    keys = list(jax.random.key_data(key)[:2])
    keys.append(keys[0] ^ keys[1] ^ 0x1BD11BDA)
    x = jnp.full(shape, keys[0])
    y = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape) + keys[1]
    for group in range(1, 6):
        for bits in ((17, 29, 16, 24), (13, 15, 26, 6))[group % 2]:
            x += y
            y = x ^ (y << bits | y >> (32 - bits))
        x += keys[group % 3]
        y += keys[(group + 1) % 3] + group
    # As one number of 64 bits, because XLA would compute two arrays with two runs of the cipher.
    with jax.enable_x64(True):
        words = y.astype(jnp.uint64) << jnp.uint64(32) | x.astype(jnp.uint64)
        return lax.optimization_barrier(lax.bitcast_convert_type(words, jnp.uint32))
