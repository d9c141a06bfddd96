"""The best of many scores, in order."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from rpn_jax.typing import Array

# On a CPU, where more of the scores are wanted, to sort all is faster: see `docs/cpu.md`.
_SORT_IF_KEPT = 1 / 6


def top_k(scores: Float[Array, " N"], k: int) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
    """Returns the k highest scores, by falling score, and their indices.

    Of equal scores the lower index comes first; NaNs come before all others. The same as
    `lax.top_k`, whose place is taken on a CPU where many scores are wanted, and 0 is equal to -0.
    """
    scores = jnp.where(scores == 0, 0, scores)  # without the sign
    if k < _SORT_IF_KEPT * scores.shape[0]:
        best, indices = lax.top_k(scores, k)
        return best, indices
    indices = lax.platform_dependent(
        scores,
        cpu=lambda scores: _sorted_indices(scores)[:k],
        default=lambda scores: lax.top_k(scores, k)[1],
    )
    return scores[indices], indices


def _sorted_indices(scores: Float[Array, " N"]) -> Int[Array, " N"]:
    """Returns the indices by falling score, by sorting (score, index) as one integer of 64 bits.

    XLA's CPU backend has a fast sort for integers alone.
    """
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    # Negative floats rise as their bits, read as an integer, fall.
    rising = jnp.where(bits < 0, ~bits, bits ^ jnp.int32(-(2**31)))
    falling = lax.bitcast_convert_type(~rising, jnp.uint32)
    with jax.enable_x64(True):
        keys = (falling.astype(jnp.uint64) << jnp.uint64(32)) | lax.iota(jnp.uint64, len(scores))
        keys = lax.sort(keys, is_stable=False)
        return keys.astype(jnp.uint32).astype(jnp.int32)
