"""The rectifier in front of what keeps its input for the gradient."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from rpn_jax.ops.barriers import computed_once
from rpn_jax.typing import Array


@jax.custom_jvp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the larger of `x` and 0; its gradient at 0 is 0, as that of `nn.relu`.

    For its gradient `nn.relu` keeps its input, in a residual block a sum that nothing else needs.
    The output is positive at the same places, and the next convolution keeps it anyway.
    """
    return computed_once(jnp.maximum(x, 0))


@relu.defjvp
def _jvp(primals, tangents):
    y = relu(*primals)
    return y, jnp.where(y > 0, *tangents, 0)
