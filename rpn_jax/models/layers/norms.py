"""The three normalisations that a detector's backbone may use."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer, ones, zeros
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.typing import Array

NORMS = ("frozen_batch_norm", "sync_batch_norm", "group_norm")
EPSILON = 1e-5


class FrozenBatchNorm(nn.Module):
    """Batch normalisation as a constant affine map of each channel.

    Scale and bias stand beside the mean and variance in `batch_stats`, not in `params`: no
    optimizer, weight decay or gradient clipping can reach them. Untouched it is the identity (but
    for epsilon), so it only makes sense with weights that were trained elsewhere.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Returns `(x - mean) / sqrt(var + epsilon) * scale + bias`."""

        def constant(name, init):
            return self.variable("batch_stats", name, init, None, (x.shape[-1],), jnp.float32).value

        factor = constant("scale", ones) * lax.rsqrt(constant("var", ones) + EPSILON)
        offset = constant("bias", zeros) - constant("mean", zeros) * factor
        y = x * factor[None, None, None, :] + offset[None, None, None, :]
        return y.astype(self.dtype)


def normalize(
    x: Float[Array, "B H W C"],
    norm: str,
    *,
    train: bool,
    dtype: DTypeLike,
    name: str,
    scale_init: Initializer = ones,
) -> Float[Array, "B H W C"]:
    """Applies the normalisation `norm` as a submodule called `name` of the module that calls this.

    `frozen_batch_norm` is `FrozenBatchNorm`; `scale_init` does not concern it. `sync_batch_norm`
    takes its statistics over the mapped axis "data" when `train` is set, so over the global batch,
    and updates the running ones (momentum 0.9, PyTorch's 0.1); otherwise it uses those.
    `group_norm` has 32 groups, or the largest number below that divides both 32 and the channels,
    and is the same in training and evaluation. Both take the canvas padding of a batch for pixels.
    """
    if norm == "frozen_batch_norm":
        layer = FrozenBatchNorm(dtype, name=name)
    elif norm == "sync_batch_norm":
        layer = nn.BatchNorm(
            use_running_average=not train,
            axis_name="data",
            momentum=0.9,
            epsilon=EPSILON,
            dtype=dtype,
            scale_init=scale_init,
            name=name,
        )
    elif norm == "group_norm":
        groups = math.gcd(32, x.shape[-1])
        layer = nn.GroupNorm(groups, epsilon=EPSILON, dtype=dtype, scale_init=scale_init, name=name)
    else:
        raise ValueError(f"norm {norm!r} is not one of {', '.join(NORMS)}")
    return layer(x)
