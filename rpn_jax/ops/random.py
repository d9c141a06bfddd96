"""Random words by the cipher that JAX uses, in a form that XLA computes fast on a CPU."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PRNGKeyArray, UInt32

from rpn_jax.typing import Array


def threefry(key: PRNGKeyArray, shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    """Returns random bits: the two words of the cipher of each of 0, 1, 2, … under the key.

    Threefry-2x32 in 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"). The
    words are those of `jax.random.split(key, shape)`, whose rounds are a loop of small operations
    on a CPU. Both words are used, of which `jax.random.bits` makes one. A key of another kind lends
    its first two words.
    """
    return lax.platform_dependent(
        jax.random.key_data(key)[:2],
        cpu=functools.partial(words_in_one_operation, shape=shape),
        default=functools.partial(words, shape=shape),
    )


def words_of(key: PRNGKeyArray, numbers: UInt32[Array, " N"]) -> UInt32[Array, "N 2"]:
    """Returns the words of `threefry` of some numbers, in any order, without those before them."""
    return jnp.stack(_rounds(jax.random.key_data(key)[:2], numbers), axis=-1)


def words(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    """Returns both words of each number: plain, for accelerators."""
    return jnp.stack(_rounds(key, _count(shape)), axis=-1)


def words_in_one_operation(
    key: UInt32[Array, "2"], shape: tuple[int, ...]
) -> UInt32[Array, "*shape 2"]:
    """Returns the same words, for CPUs: for two arrays XLA would run the cipher twice."""
    x, y = _rounds(key, _count(shape))
    with jax.enable_x64(True):
        both = y.astype(jnp.uint64) << jnp.uint64(32) | x.astype(jnp.uint64)
        return lax.optimization_barrier(lax.bitcast_convert_type(both, jnp.uint32))


def _count(shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    return lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)


def _rounds(
    key: UInt32[Array, "2"], numbers: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], ...]:
    """Returns the first word of each number, and the second."""
    keys = list(key)
    keys.append(keys[0] ^ keys[1] ^ 0x1BD11BDA)
    x = jnp.full(numbers.shape, keys[0])
    y = numbers + keys[1]
    for group in range(1, 6):
        for bits in ((17, 29, 16, 24), (13, 15, 26, 6))[group % 2]:
            x += y
            y = x ^ (y << bits | y >> (32 - bits))
        x += keys[group % 3]
        y += keys[(group + 1) % 3] + group
    return x, y
