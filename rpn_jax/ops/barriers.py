"""What XLA is to compute once."""

from jax import lax
from jaxtyping import PyTree

from rpn_jax.typing import Array


def computed_once(x: PyTree[Array]) -> PyTree[Array]:
    """Returns `x`, which XLA's CPU backend then computes once and as a whole, whatever reads it.

    Otherwise it computes what is cheap again for each reader, in a residual network with the sums
    of all the blocks before it, for which it keeps their terms to the end of the step.
    Accelerators get nothing but `x`.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
