"""DenseNet-121 (Huang et al., arXiv 1608.06993) as a backbone, with torchvision's geometry.

Stage c1 is the stem with its pool, c2 to c5 are the four dense blocks. In a DenseNet the norm and
the ReLU of a layer precede its convolution, also in the transitions from block to block: here a
stage's features end with those of the transition that follows (after the last block, of the
network's last norm), and the transition's convolution and pool begin the next stage.

The pools of the transitions do not pad, so the receptive field of cell (i, j) of c4 is centred on
the point (16 j + 6.5, 16 i + 6.5) of the image; anchors with `offset=0.5` are 1.5 pixels off.
"""

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

# Stage: layers of its dense block.
STAGES = {"c1": 0, "c2": 6, "c3": 12, "c4": 24, "c5": 16}
_GROWTH = 32  # channels that a layer adds
_BOTTLENECK = 4 * _GROWTH

_Conv = functools.partial(Conv, use_bias=False)


class _Stem(nn.Module):
    """7x7/2 and a 3x3/2 pool."""

    norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w 64"]:
        x = _Conv(64, (7, 7), strides=2, padding=3, dtype=self.dtype, name="conv0")(x)
        x = normalize(x, self.norm, train=train, dtype=self.dtype, name="norm0")
        return max_pool(nn.relu(x), 3, 2, 1)


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution, each behind a norm and a ReLU, from all channels to 32 more."""

    norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W _"]:
        """Returns the input and, behind it, the new channels."""
        norm = functools.partial(normalize, norm=self.norm, train=train, dtype=self.dtype)
        y = nn.relu(norm(x, name="norm1"))
        y = _Conv(_BOTTLENECK, (1, 1), dtype=self.dtype, name="conv1")(y)
        y = nn.relu(norm(y, name="norm2"))
        y = _Conv(_GROWTH, (3, 3), padding=1, dtype=self.dtype, name="conv2")(y)
        return jnp.concatenate([x, y], axis=-1)


class _Stage(nn.Module):
    """A transition, unless it is the first, then a dense block, a norm and a ReLU."""

    depth: int
    transition: bool
    norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        if self.transition:
            # A mean and a 1x1 convolution may change places; this way the latter costs a quarter.
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
            x = _Conv(x.shape[-1] // 2, (1, 1), dtype=self.dtype, name="transition")(x)
        for i in range(1, self.depth + 1):
            x = DenseLayer(self.norm, self.dtype, name=f"layer{i}")(x, train)
        return nn.relu(normalize(x, self.norm, train=train, dtype=self.dtype, name="norm"))


class DenseNet(Backbone):
    """Features of DenseNet-121 at the ends of stages c1 to c5.

    Fields beside `Backbone`'s:
      norm: see `norms.normalize`.
    """

    output_stages: tuple[str, ...] = ("c4",)
    norm: str = "frozen_batch_norm"

    def stages(self) -> dict[str, nn.Module]:
        """Returns the stem and the dense blocks."""
        stages: dict[str, nn.Module] = {"c1": _Stem(self.norm, self.dtype, name="c1")}
        for name, depth in list(STAGES.items())[1:]:
            stages[name] = _Stage(depth, name != "c2", self.norm, self.dtype, name=name)
        return stages

    def stage_strides(self) -> dict[str, int]:
        """Returns the stem's stride, which each transition doubles."""
        return dict(zip(STAGES, (4, 4, 8, 16, 32), strict=True))

    def stage_cells(self, size: int) -> dict[str, int]:
        """Returns the cells: the stem rounds up, transitions round down."""
        cells = output_size(output_size(size, 7, 2, 3), 3, 2, 1)
        return {name: cells // (stride // 4) for name, stride in self.stage_strides().items()}
