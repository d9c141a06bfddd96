"""ResNets (He et al., arXiv 1512.03385) as detection backbones, with torchvision's geometry.

Also ResNeXts (Xie et al., arXiv 1611.05431), which are ResNets of grouped convolutions.

Stage c1 is the stem with its pool, c2 to c5 are torchvision's layer1 to layer4; "C4" is the
network up to c4, at stride 16. Padding is explicit, as in torchvision: `SAME` would shift the
cells of a strided convolution by half an input pixel at even sizes.
"""

import functools
from collections.abc import Callable
from typing import Literal

from flax import linen as nn
from jax.nn.initializers import ones, zeros
from jax.typing import DTypeLike
from jaxtyping import Float

from rpn_jax.models.backbones.base import Backbone
from rpn_jax.models.layers.convolution import Conv
from rpn_jax.models.layers.norms import normalize
from rpn_jax.models.layers.pooling import max_pool
from rpn_jax.models.layers.relu import relu
from rpn_jax.typing import Array

STAGES = ("c1", "c2", "c3", "c4", "c5")


class _ConvNorm(nn.Module):
    """A convolution without bias, padded by half its extent, and the normalisation behind it."""

    channels: int
    kernel: int
    stride: int
    norm: str
    dtype: DTypeLike
    dilation: int = 1
    groups: int = 1
    zero_scale: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        x = Conv(
            self.channels,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.dilation * (self.kernel // 2),
            kernel_dilation=self.dilation,
            feature_group_count=self.groups,
            use_bias=False,
            dtype=self.dtype,
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

    Fields:
      channels: of a basic block; 4 times as many leave a bottleneck.
      dilation: of the 3x3 convolutions up to the one that strides, and of those behind it.
      groups, width_per_group: of a bottleneck's 3x3 convolution, which has `groups` times
        `width_per_group / 64` of `channels`: more than one group make it a ResNeXt's.
    """

    channels: int
    stride: int
    bottleneck: bool
    stride_in_1x1: bool
    norm: str
    dtype: DTypeLike
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    width_per_group: int = 64

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        """Returns the block's output, after ReLU."""
        conv_norm = functools.partial(_ConvNorm, norm=self.norm, dtype=self.dtype)
        up_to, behind = self.dilation
        if self.bottleneck:
            width = self.channels * self.width_per_group // 64 * self.groups
            first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
            conv3x3 = conv_norm(
                width,
                3,
                second,
                dilation=behind if self.stride_in_1x1 else up_to,
                groups=self.groups,
                name="conv2",
            )
            y = relu(conv_norm(width, 1, first, name="conv1")(x, train))
            y = relu(conv3x3(y, train))
            y = conv_norm(4 * self.channels, 1, 1, zero_scale=True, name="conv3")(y, train)
        else:
            conv1 = conv_norm(self.channels, 3, self.stride, dilation=up_to, name="conv1")
            conv2 = conv_norm(self.channels, 3, 1, dilation=behind, zero_scale=True, name="conv2")
            y = conv2(relu(conv1(x, train)), train)
        if x.shape != y.shape:
            x = conv_norm(y.shape[-1], 1, self.stride, name="shortcut")(x, train)
        return relu(x + y)


class _Stem(nn.Module):
    """7x7/2 and a 3x3/2 pool ("imagenet", stride 4), or 3x3/2 alone ("small", stride 2)."""

    kind: str
    norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w 64"]:
        kernel = 7 if self.kind == "imagenet" else 3
        x = relu(_ConvNorm(64, kernel, 2, self.norm, self.dtype, name="conv1")(x, train))
        return max_pool(x, 3, 2, 1) if self.kind == "imagenet" else x


class _Stage(nn.Module):
    """So many residual blocks, the first of which strides.

    If `dilated` it does not, and all convolutions behind the one that would are dilated instead:
    each then sees the same cells, and so computes the same, as in the strided stage.
    """

    depth: int
    block: Callable[..., ResidualBlock]
    stride: int
    dilated: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        behind = self.stride if self.dilated else 1
        for i in range(self.depth):
            x = self.block(
                stride=self.stride if i == 0 and not self.dilated else 1,
                dilation=(1 if i == 0 else behind, behind),
                name=f"block{i + 1}",
            )(x, train)
        return x


class ResNet(Backbone, kw_only=True):
    """Features of a ResNet at the ends of stages c1 to c5.

    Fields beside `Backbone`'s:
      depths: residual blocks of c2, c3, c4 and c5.
      bottleneck: bottleneck blocks (ResNet-50 and deeper) or basic ones.
      norm: see `norms.normalize`.
      stem: "imagenet" (stride 4), or "small" (3x3/2 without a pool) with strides half as large.
      stride_in_1x1: where a bottleneck strides, see `ResidualBlock`.
      dilate_c5: c5 keeps the stride of c4, 16. Every second row and column of it is what it would
        be at stride 32, so that trained weights fit; as torchvision's
        `replace_stride_with_dilation` of the last stage, and detectron2's `RES5_DILATION`.
      groups, width_per_group: of bottlenecks, see `ResidualBlock`.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    output_stages: tuple[str, ...] = ("c4",)
    norm: str = "frozen_batch_norm"
    stem: Literal["imagenet", "small"] = "imagenet"
    stride_in_1x1: bool = False
    dilate_c5: bool = False
    groups: int = 1
    width_per_group: int = 64

    def stages(self) -> dict[str, nn.Module]:
        """Returns the stem and the residual blocks of each other stage."""
        stages = {"c1": _Stem(self.stem, self.norm, self.dtype, name="c1")}
        return stages | {name: self.stage_of(name)(name=name) for name in STAGES[1:]}

    def stage_of(self, stage: str) -> Callable[..., nn.Module]:
        """Returns what makes the stage c2, c3, c4 or c5, here or in a head, given its `name`."""
        i = STAGES.index(stage) - 1
        block = functools.partial(
            ResidualBlock,
            channels=64 * 2**i,
            bottleneck=self.bottleneck,
            stride_in_1x1=self.stride_in_1x1,
            norm=self.norm,
            dtype=self.dtype,
            groups=self.groups,
            width_per_group=self.width_per_group,
        )
        dilated = stage == "c5" and self.dilate_c5
        stride = 1 if i == 0 else 2
        return functools.partial(_Stage, self.depths[i], block, stride, dilated)

    def stage_strides(self) -> dict[str, int]:
        """Returns the stem's stride, which c3, c4 and c5 double unless they are dilated."""
        stem = 4 if self.stem == "imagenet" else 2
        doublings = (0, 0, 1, 2, 2 if self.dilate_c5 else 3)
        return {stage: stem * 2**n for stage, n in zip(STAGES, doublings, strict=True)}

    def stage_cells(self, size: int) -> dict[str, int]:
        """Returns the cells: the padding of strided convolutions rounds up."""
        return {stage: -(-size // stride) for stage, stride in self.stage_strides().items()}
