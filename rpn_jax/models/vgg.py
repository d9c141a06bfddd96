"""VGG-16 (Simonyan & Zisserman, arXiv 1409.1556, model D) up to conv5_3, as the paper uses it."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import variance_scaling
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.convolution import conv_general_dilated, max_pool
from rpn_jax.typing import Array

# Stage: number of convolutions, channels.
STAGES = {"c1": (2, 64), "c2": (2, 128), "c3": (3, 256), "c4": (3, 512), "c5": (3, 512)}

_Conv3x3 = functools.partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding=1,
    kernel_init=variance_scaling(2.0, "fan_out", "normal"),
    conv_general_dilated=conv_general_dilated,
)


class VGGStage(nn.Module):
    """The pool that precedes stage `number` (none before the first), then its convolutions."""

    number: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"]) -> Float[Array, "B h w _"]:
        """Returns the stage's last feature map, after ReLU."""
        if self.number > 1:
            x = max_pool(x, 2, 2)
        num_convolutions, channels = STAGES[f"c{self.number}"]
        for i in range(1, num_convolutions + 1):
            x = nn.relu(_Conv3x3(channels, dtype=self.dtype, name=f"conv{self.number}_{i}")(x))
        return x


class VGG16(nn.Module):
    """Features of VGG-16 at the ends of stages c1 (conv1_2) to c5 (conv5_3), without pool5.

    Fields:
      frozen_stages: the first so many stages get no gradient. The paper trains from conv3_1 up: 2.
      output_stages: the stages whose features to return, finest first; none beyond is computed.
      dtype: what to compute in; parameters are float32.
    """

    frozen_stages: int = 0
    output_stages: tuple[str, ...] = ("c5",)
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels from one cell to the next, for each output."""
        return tuple(2 ** list(STAGES).index(stage) for stage in self.output_stages)

    def grid_hw(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Returns the rows and columns of each output for a canvas: its pools round down."""
        return tuple((height // stride, width // stride) for stride in self.strides)

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Returns one feature map for each output stage. `train` changes nothing here."""
        del train
        features = {}
        x = images
        for number, stage in enumerate(STAGES, start=1):
            x = VGGStage(number, self.dtype, name=stage)(x)
            if number == self.frozen_stages:
                # Here, and not at each parameter, so that nothing below is differentiated.
                x = lax.stop_gradient(x)
            features[stage] = x
            if stage == self.output_stages[-1]:
                break
        return tuple(features[stage] for stage in self.output_stages)
