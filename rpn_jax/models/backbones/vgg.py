"""VGG-16 (Simonyan & Zisserman, arXiv 1409.1556, model D) up to conv5_3, as the paper uses it."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import variance_scaling
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.backbones.stages import run_stages
from rpn_jax.models.layers.convolution import conv_general_dilated, promote_dtype
from rpn_jax.models.layers.norms import normalize
from rpn_jax.models.layers.pooling import max_pool
from rpn_jax.models.layers.windows import output_size
from rpn_jax.typing import Array

# Stage: number of convolutions, channels.
STAGES = {"c1": (2, 64), "c2": (2, 128), "c3": (3, 256), "c4": (3, 512), "c5": (3, 512)}

_Conv3x3 = functools.partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding=1,
    kernel_init=variance_scaling(2.0, "fan_out", "normal"),
    conv_general_dilated=conv_general_dilated,
    promote_dtype=promote_dtype,
)


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


class VGG16(nn.Module):
    """Features of VGG-16 at the ends of stages c1 (conv1_2) to c5 (conv5_3), without pool5.

    Fields:
      norm: see `norms.normalize`, behind each convolution; None for none, as in the paper.
      frozen_stages: the first so many stages get no gradient, and use their running statistics.
        The paper trains from conv3_1 up: 2.
      output_stages: the stages whose features to return, finest first; none beyond is computed.
      ceil_pools: round the size of pools up, as Caffe does, see `windows.output_size`.
      remat: see `stages.run_stages`.
      dtype: what to compute in; parameters and statistics are float32.
    """

    norm: str | None = None
    frozen_stages: int = 0
    output_stages: tuple[str, ...] = ("c5",)
    ceil_pools: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels from one cell to the next, for each output."""
        return tuple(2 ** list(STAGES).index(stage) for stage in self.output_stages)

    def grid_hw(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Returns the rows and columns of each output for a canvas of `height` x `width` pixels."""

        # To halve several times over, always down or always up, is to divide once.
        def cells(size, stride):
            return output_size(size, stride, stride, ceil=self.ceil_pools)

        return tuple((cells(height, stride), cells(width, stride)) for stride in self.strides)

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Returns one feature map for each output stage.

        With `train`, stages that are not frozen and have `sync_batch_norm` want a mapped axis
        "data" and a mutable collection `batch_stats`.
        """
        stages = {
            name: VGGStage(number, self.norm, self.ceil_pools, self.dtype, name=name)
            for number, name in enumerate(STAGES, start=1)
        }
        return run_stages(
            stages,
            images,
            train,
            frozen_stages=self.frozen_stages,
            output_stages=self.output_stages,
            remat=self.remat,
        )
