"""ResNets (He et al., arXiv 1512.03385) as detection backbones, with torchvision's geometry.

Stage c1 is the stem with its pool, c2 to c5 are torchvision's layer1 to layer4; "C4" is the
network up to c4, at stride 16. Padding is explicit, as in torchvision: `SAME` would shift the
cells of a strided convolution by half an input pixel at even sizes.
"""

import functools
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import ones, variance_scaling, zeros
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.convolution import conv_general_dilated, max_pool
from rpn_jax.models.norms import normalize
from rpn_jax.typing import Array

STAGES = ("c1", "c2", "c3", "c4", "c5")


class _ConvNorm(nn.Module):
    """A convolution without bias, padded by half its kernel, and the normalisation behind it."""

    channels: int
    kernel: int
    stride: int
    norm: str
    dtype: DTypeLike
    zero_scale: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        x = nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=conv_general_dilated,
            name="conv",
        )(x)
        return normalize(
            x,
            self.norm,
            train=train,
            dtype=self.dtype,
            name="norm",
            scale_init=zeros if self.zero_scale else ones,
        )


class ResidualBlock(nn.Module):
    """A basic block (two 3x3 convolutions) or a bottleneck (1x1, 3x3, 1x1 to four times as many).

    The last norm's scale begins at 0, so that an untrained block passes its input on (Goyal et
    al., arXiv 1706.02677, section 5.1); a frozen norm begins as the identity, as it could never
    leave 0. A bottleneck strides in its 3x3 convolution (torchvision's "v1.5"), or in the first
    1x1 with `stride_in_1x1` (the paper's own weights and those of Caffe and Detectron).
    """

    channels: int
    stride: int
    bottleneck: bool
    stride_in_1x1: bool
    norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        """Returns the block's output, after ReLU."""
        conv_norm = functools.partial(_ConvNorm, norm=self.norm, dtype=self.dtype)
        if self.bottleneck:
            first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
            y = nn.relu(conv_norm(self.channels, 1, first, name="conv1")(x, train))
            y = nn.relu(conv_norm(self.channels, 3, second, name="conv2")(y, train))
            y = conv_norm(4 * self.channels, 1, 1, zero_scale=True, name="conv3")(y, train)
        else:
            y = nn.relu(conv_norm(self.channels, 3, self.stride, name="conv1")(x, train))
            y = conv_norm(self.channels, 3, 1, zero_scale=True, name="conv2")(y, train)
        if x.shape != y.shape:
            x = conv_norm(y.shape[-1], 1, self.stride, name="shortcut")(x, train)
        return nn.relu(x + y)


class _Stem(nn.Module):
    """7x7/2 and a 3x3/2 pool ("imagenet", stride 4), or 3x3/2 alone ("small", stride 2)."""

    kind: str
    norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w 64"]:
        kernel = 7 if self.kind == "imagenet" else 3
        x = nn.relu(_ConvNorm(64, kernel, 2, self.norm, self.dtype, name="conv1")(x, train))
        return max_pool(x, 3, 2, 1) if self.kind == "imagenet" else x


class _Stage(nn.Module):
    """So many residual blocks, the first of which strides."""

    depth: int
    channels: int
    stride: int
    bottleneck: bool
    stride_in_1x1: bool
    norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        for i in range(self.depth):
            x = ResidualBlock(
                self.channels,
                self.stride if i == 0 else 1,
                self.bottleneck,
                self.stride_in_1x1,
                self.norm,
                self.dtype,
                name=f"block{i + 1}",
            )(x, train)
        return x


class ResNet(nn.Module):
    """Features of a ResNet at the ends of stages c1 to c5.

    Fields:
      depths: residual blocks of c2, c3, c4 and c5.
      bottleneck: bottleneck blocks (ResNet-50 and deeper) or basic ones.
      norm: see `norms.normalize`.
      frozen_stages: the first so many stages get no gradient and use their running statistics.
      output_stages: the stages whose features to return, finest first; none beyond is computed.
      stem: "imagenet" (stride 4), or "small" (3x3/2 without a pool) with strides half as large.
      stride_in_1x1: where a bottleneck strides, see `ResidualBlock`.
      dtype: what to compute in; parameters and statistics are float32.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    norm: str = "frozen_batch_norm"
    frozen_stages: int = 0
    output_stages: tuple[str, ...] = ("c4",)
    stem: Literal["imagenet", "small"] = "imagenet"
    stride_in_1x1: bool = False
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels from one cell to the next, for each output."""
        stem_stride = 4 if self.stem == "imagenet" else 2
        doublings = (0, 0, 1, 2, 3)
        return tuple(stem_stride * 2 ** doublings[STAGES.index(s)] for s in self.output_stages)

    def grid_hw(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Returns the rows and columns of each output for a canvas: its padding rounds up."""
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """Returns one feature map for each output stage.

        With `train`, stages that are not frozen and have `sync_batch_norm` want a mapped axis
        "data" and a mutable collection `batch_stats`.
        """
        features = {}
        x = images
        for i, stage in enumerate(STAGES):
            learns = train and i >= self.frozen_stages
            if stage == "c1":
                x = _Stem(self.stem, self.norm, self.dtype, name=stage)(x, learns)
            else:
                x = _Stage(
                    self.depths[i - 1],
                    64 * 2 ** (i - 1),
                    1 if stage == "c2" else 2,
                    self.bottleneck,
                    self.stride_in_1x1,
                    self.norm,
                    self.dtype,
                    name=stage,
                )(x, learns)
            if i + 1 == self.frozen_stages:
                # Here, and not at each parameter, so that nothing below is differentiated.
                x = lax.stop_gradient(x)
            features[stage] = x
            if stage == self.output_stages[-1]:
                break
        return tuple(features[stage] for stage in self.output_stages)
