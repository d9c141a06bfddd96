"""VGG-16 (Simonyan & Zisserman, arXiv 1409.1556, model D) up to conv5_3, as the paper uses it."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.backbones.base import Backbone
from rpn_jax.models.layers.convolution import Conv
from rpn_jax.models.layers.norms import normalize
from rpn_jax.models.layers.pooling import max_pool
from rpn_jax.models.layers.windows import output_size
from rpn_jax.typing import Array

# Stage: number of convolutions, channels.
STAGES = {"c1": (2, 64), "c2": (2, 128), "c3": (3, 256), "c4": (3, 512), "c5": (3, 512)}

_Conv3x3 = functools.partial(Conv, kernel_size=(3, 3), padding=1)


class _ConvNorm(nn.Module):
    """A convolution and the normalisation behind it."""

    channels: int
    norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B H W _"]:
        x = _Conv3x3(self.channels, dtype=self.dtype, name="conv")(x)
        return normalize(x, self.norm, train=train, dtype=self.dtype, name="norm")


class VGGStage(nn.Module):
    """The pool that precedes stage `number` (none before the first), then its convolutions."""

    number: int
    norm: str | None = None
    ceil_pools: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        """Returns the stage's last feature map, after ReLU."""
        if self.number > 1:
            x = max_pool(x, 2, 2, ceil=self.ceil_pools)
        num_convolutions, channels = STAGES[f"c{self.number}"]
        for i in range(1, num_convolutions + 1):
            name = f"conv{self.number}_{i}"
            if self.norm is None:
                x = _Conv3x3(channels, dtype=self.dtype, name=name)(x)
            else:
                x = _ConvNorm(channels, self.norm, self.dtype, name=name)(x, train)
            x = nn.relu(x)
        return x


class VGG16(Backbone):
    """Features of VGG-16 at the ends of stages c1 (conv1_2) to c5 (conv5_3), without pool5.

    The paper trains from conv3_1 up: `frozen_stages` is 2.

    Fields beside `Backbone`'s:
      norm: see `norms.normalize`, behind each convolution; None for none, as in the paper.
      ceil_pools: round the size of pools up, as Caffe does, see `windows.output_size`.
    """

    norm: str | None = None
    ceil_pools: bool = False

    def stages(self) -> dict[str, nn.Module]:
        """Returns the convolutions between two pools each."""
        return {
            name: VGGStage(number, self.norm, self.ceil_pools, self.dtype, name=name)
            for number, name in enumerate(STAGES, start=1)
        }

    def stage_strides(self) -> dict[str, int]:
        """Returns 1, which each pool doubles."""
        return {name: 2**number for number, name in enumerate(STAGES)}

    def stage_cells(self, size: int) -> dict[str, int]:
        """Returns the cells. Halving several times, always down or always up, divides once."""
        return {
            name: output_size(size, stride, stride, ceil=self.ceil_pools)
            for name, stride in self.stage_strides().items()
        }
