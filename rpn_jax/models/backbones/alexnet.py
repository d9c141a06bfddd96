"""AlexNet (Krizhevsky, arXiv 1404.5997) up to its fifth convolution, with torchvision's geometry.

Like torchvision's it has one tower and no local response normalisation. Its first convolution pads
2 pixels where an 11x11 kernel would need 5, and its pools pad none, so that the cells are not
centred as in the other backbones: the receptive field of cell (i, j) of c5 is centred on the point
(16 j + 15.5, 16 i + 15.5) of the image (7.5 in place of 15.5 at c2, stride 8), half a cell below
and to the right of anchors with `offset=0.5`. An offset of 1 would be nearly right; with another,
the box regression learns the shift.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import variance_scaling
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.backbones.stages import run_stages
from rpn_jax.models.layers.convolution import conv_general_dilated, promote_dtype
from rpn_jax.models.layers.pooling import max_pool
from rpn_jax.models.layers.windows import output_size
from rpn_jax.typing import Array

_POOL, _POOL_STRIDE = 3, 2


class Layer(NamedTuple):
    """A stage: a 3x3 pool of stride 2, or none, and a convolution.

    Fields:
      channels, kernel, stride, padding: of the convolution.
      pool_padding: of the pool in front of it, None without one.
    """

    channels: int
    kernel: int
    stride: int
    padding: int
    pool_padding: int | None = None


STAGES = {
    "c1": Layer(64, 11, 4, 2),
    "c2": Layer(192, 5, 1, 2, pool_padding=0),
    "c3": Layer(384, 3, 1, 1, pool_padding=0),
    "c4": Layer(256, 3, 1, 1),
    "c5": Layer(256, 3, 1, 1),
}


class _Stage(nn.Module):
    """What comes before the convolution of stage `number`, the convolution, and a ReLU."""

    number: int
    layer: Layer
    local_norm: Callable | None
    ceil_pools: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        del train
        layer = self.layer
        if layer.pool_padding is not None:
            x = self.local_norm(x) if self.local_norm else x
            x = max_pool(x, _POOL, _POOL_STRIDE, layer.pool_padding, self.ceil_pools)
        return nn.relu(
            nn.Conv(
                layer.channels,
                (layer.kernel, layer.kernel),
                strides=layer.stride,
                padding=layer.padding,
                dtype=self.dtype,
                kernel_init=variance_scaling(2.0, "fan_out", "normal"),
                conv_general_dilated=conv_general_dilated,
                promote_dtype=promote_dtype,
                name=f"conv{self.number}",
            )(x)
        )


class AlexNet(nn.Module):
    """Features of AlexNet at the ends of stages c1 (conv1) to c5 (conv5), without the last pool.

    Fields:
      frozen_stages: the first so many stages get no gradient.
      output_stages: the stages whose features to return, finest first; none beyond is computed.
      ceil_pools: round the size of pools up, as Caffe does, see `windows.output_size`.
      remat: see `stages.run_stages`.
      dtype: what to compute in; parameters are float32.
    """

    frozen_stages: int = 0
    output_stages: tuple[str, ...] = ("c5",)
    ceil_pools: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    layers = STAGES
    local_norm = None  # a function of the map in front of each pool

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels from one cell to the next, for each output."""
        strides, stride = {}, 1
        for name, layer in self.layers.items():
            stride *= layer.stride * (1 if layer.pool_padding is None else _POOL_STRIDE)
            strides[name] = stride
        return tuple(strides[stage] for stage in self.output_stages)

    def grid_hw(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Returns the rows and columns of each output for a canvas of `height` x `width` pixels."""

        def sizes(size):
            after = {}
            for name, layer in self.layers.items():
                if layer.pool_padding is not None:
                    size = output_size(
                        size, _POOL, _POOL_STRIDE, layer.pool_padding, self.ceil_pools
                    )
                after[name] = size = output_size(size, layer.kernel, layer.stride, layer.padding)
            return after

        rows, columns = sizes(height), sizes(width)
        return tuple((rows[stage], columns[stage]) for stage in self.output_stages)

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Returns one feature map for each output stage. `train` changes nothing here."""
        stages = {
            name: _Stage(number, layer, self.local_norm, self.ceil_pools, self.dtype, name=name)
            for number, (name, layer) in enumerate(self.layers.items(), start=1)
        }
        return run_stages(
            stages,
            images,
            train,
            frozen_stages=self.frozen_stages,
            output_stages=self.output_stages,
            remat=self.remat,
        )
