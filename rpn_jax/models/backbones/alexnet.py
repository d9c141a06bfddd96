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

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.backbones.base import Backbone
from rpn_jax.models.layers.convolution import Conv
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
            Conv(
                layer.channels,
                (layer.kernel, layer.kernel),
                strides=layer.stride,
                padding=layer.padding,
                dtype=self.dtype,
                name=f"conv{self.number}",
            )(x)
        )


class AlexNet(Backbone):
    """Features of AlexNet at the ends of stages c1 (conv1) to c5 (conv5), without the last pool.

    Fields beside `Backbone`'s:
      ceil_pools: round the size of pools up, as Caffe does, see `windows.output_size`.
    """

    ceil_pools: bool = False

    layers = STAGES
    local_norm = None  # a function of the map in front of each pool

    def stages(self) -> dict[str, nn.Module]:
        """Returns a convolution each, behind a pool or none."""
        return {
            name: _Stage(number, layer, self.local_norm, self.ceil_pools, self.dtype, name=name)
            for number, (name, layer) in enumerate(self.layers.items(), start=1)
        }

    def stage_strides(self) -> dict[str, int]:
        """Returns the products of all strides up to the end of each stage."""
        strides, stride = {}, 1
        for name, layer in self.layers.items():
            stride *= layer.stride * (1 if layer.pool_padding is None else _POOL_STRIDE)
            strides[name] = stride
        return strides

    def stage_cells(self, size: int) -> dict[str, int]:
        """Returns the cells that the layers leave, one after another."""
        cells = {}
        for name, layer in self.layers.items():
            if layer.pool_padding is not None:
                size = output_size(size, _POOL, _POOL_STRIDE, layer.pool_padding, self.ceil_pools)
            cells[name] = size = output_size(size, layer.kernel, layer.stride, layer.padding)
        return cells
