"""The rectifier of all networks here, made to need little memory in training."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from rpn_jax.typing import Array


@jax.custom_jvp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the larger of `x` and 0; its gradient at 0 is 0, as that of `nn.relu`.

    For its gradient `nn.relu` keeps its input: in a residual network a sum that nothing else needs.
    The output, which the next convolution keeps anyway, is positive at the same places.
    """

    def computed_once(x):
        # Without the barrier XLA's CPU backend computes it again for everything that reads it, and
        # the sums of all earlier blocks with it.
        return lax.optimization_barrier(jnp.maximum(x, 0))

    return lax.platform_dependent(x, cpu=computed_once, default=lambda x: jnp.maximum(x, 0))


@relu.defjvp
def _jvp(primals, tangents):
    y = relu(*primals)
    return y, jnp.where(y > 0, *tangents, 0)
