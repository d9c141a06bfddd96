"""The parts of a detector's network in one Flax module, and how a config's fields choose them.

Here and in what calls it: L levels, finest first; level l has H_l rows and W_l columns; K anchors
stand at each position. Anchors are ordered row, column, anchor.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Key

from rpn_jax.errors import UserError
from rpn_jax.models.backbones import BACKBONES, resnet
from rpn_jax.models.box_head import BoxHead, ConvolutionHead, FullyConnectedHead, StageHead
from rpn_jax.models.layers import norms
from rpn_jax.models.mask_head import MaskHead
from rpn_jax.models.named import check_fit, check_stages, choose, named_backbone, named_neck
from rpn_jax.models.rpn_head import RPNHead
from rpn_jax.typing import Array

Levels = tuple[Array, ...]  # one array a level, finest first


class RCNN(nn.Module):
    """The parts of a detector: a backbone, and of a neck, RPN and other heads those that it has.

    A backbone maps `(images, train)` to a tuple of feature maps, finest first, and knows their
    `strides` and, for any canvas, their `grid_hw`. A neck maps the three to those of its levels.
    One RPN head serves all levels, which have the same number of channels.
    """

    backbone: nn.Module
    rpn: nn.Module | None
    neck: nn.Module | None = None
    box: nn.Module | None = None
    mask: nn.Module | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels from one position to the next, for each level."""
        strides = self.backbone.strides
        return self.neck.strides(strides) if self.neck else strides

    @property
    def pooled_strides(self) -> tuple[int, ...]:
        """The strides of the levels that a second stage pools: all, but a pyramid's p6."""
        return self.neck.pooled(self.strides) if self.neck else self.strides

    def grid_hw(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Returns the rows and columns of each level for a canvas of `height` x `width` pixels."""
        grids = self.backbone.grid_hw(height, width)
        return self.neck.grid_hw(grids) if self.neck else grids

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        train: bool = False,
        features: Levels | None = None,
    ) -> tuple[Levels, Levels]:
        """Returns what the RPN says of the images; see `objectness`.

        With it `init` makes the variables of all parts. `features` are the backbone's, where they
        are known; the images then play no part.
        """
        _, logits, deltas = self.look(images, train, features)
        return logits, deltas

    def look(
        self,
        images: Float[Array, "B H W 3"],
        train: bool = False,
        features: Levels | None = None,
    ) -> tuple[Levels, Levels, Levels]:
        """Returns the feature maps, and what `objectness` says of them."""
        levels = self.levels(images, train, features)
        if self.is_initializing():
            channels = levels[0].shape[-1]
            if self.box:
                self.classify(jnp.zeros((1, 1, *self.box.pooled_hw, channels)))
            if self.mask:
                pooled = jnp.zeros((1, 1, *self.mask.pooled_hw, channels))
                self.segment(pooled, jnp.zeros((1, 1), jnp.int32))
        return (levels, *self.objectness(levels))

    def levels(
        self,
        images: Float[Array, "B H W 3"],
        train: bool = False,
        features: Levels | None = None,
    ) -> Levels:
        """Returns the feature maps (B, H_l, W_l, C) on which the heads sit, finest first.

        `images` are normalised (see `inputs.normalize_images`). `train` makes batch normalisation
        use the statistics of the batch, see `norms.normalize`.
        """
        if features is None:
            features = self.backbone(images, train)
        return self.neck(features) if self.neck else features

    def objectness(self, levels: Levels) -> tuple[Levels, Levels]:
        """Returns, for each level, the logits (B, H_l*W_l*K) and the deltas (B, H_l*W_l*K, 4).

        Without an RPN there are none.
        """
        outputs = [self.rpn(level) for level in levels] if self.rpn else []
        return tuple(logits for logits, _ in outputs), tuple(deltas for _, deltas in outputs)

    def classify(
        self, pooled: Float[Array, "B R h w C"], keys: Key[jax.Array, " B"] | None = None
    ) -> tuple[Float[Array, "B R K"], Float[Array, "B R K_or_1 4"]]:
        """Returns the class logits and the box deltas of regions, see `box_head`.

        With `keys`, one for each image, the head drops units out.
        """
        return self.box(pooled, keys)

    def segment(
        self, pooled: Float[Array, "B R h w C"], labels: Int[Array, "B R"]
    ) -> Float[Array, "B R M M"]:
        """Returns the logits of the masks of regions of those classes, see `mask_head`."""
        return self.mask(self.box.shared(pooled), labels)


def frozen_paths_of(stages: int, neck: bool = False) -> tuple[tuple[str, ...], ...]:
    """Returns the paths of the backbone's first `stages`, and of the neck, for `trainable_mask`."""
    of_backbone = tuple(("backbone", f"c{i}") for i in range(1, stages + 1))
    return (*of_backbone, ("neck",)) if neck else of_backbone


def trainable_mask(params: Any, frozen: Collection[tuple[str, ...]]) -> Any:
    """Returns the tree of `params` with False below the paths in `frozen`, True elsewhere.

    It is for the optimizer: the gradient of what is frozen is 0 already, but weight decay and
    momentum would still move it.
    """

    def is_trained(path, _):
        return not any(path[: len(prefix)] == prefix for prefix in frozen)

    return traverse_util.path_aware_map(is_trained, params)


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# What only some backbones have, and the values of it.
_OPTIONS = {
    "norm": norms.NORMS,
    "stem": ("imagenet", "small"),
    "stride_in_1x1": (False, True),
    "dilate_c5": (False, True),
    "ceil_pools": (False, True),
}


def build_rcnn(
    *,
    backbone: str = "vgg16",
    output_stage: str | None = None,
    neck: str | None = None,
    fpn_channels: int = 256,
    fpn_norm: str | None = None,
    frozen_stages: int = 0,
    norm: str | None = None,
    stem: str | None = None,
    stride_in_1x1: bool | None = None,
    dilate_c5: bool | None = None,
    ceil_pools: bool | None = None,
    num_anchors: int = 9,
    head_channels: int = 512,
    head_convolutions: int = 1,
    objectness: str = "sigmoid",
    remat: bool = False,
    dtype: str = "float32",
    box: Mapping[str, Any] | None = None,
    mask: Mapping[str, Any] | None = None,
) -> RCNN:
    """Returns the network that the fields of `config.model` describe.

    The fields:
      backbone: a name of `BACKBONES`, or the import path of one's own.
      output_stage: "c1" to "c5", where the head sits; None is the one at stride 16, which is c4 of
        a ResNet (c5 with `dilate_c5`) and of DenseNet-121, c5 of the others. The network's
        `strides` follow.
      neck: "fpn" puts the head on the levels p2 to p6 of an `fpn.FPN` instead, and the import path
        of one's own on its levels; None is no neck.
      fpn_channels: of the levels of that neck.
      fpn_norm: behind its convolutions, see there.
      frozen_stages: so many of the first stages are not trained; the paper freezes 2 of VGG-16.
      norm: of a ResNet, DenseNet-121 or VGG-16, a name of `norms.NORMS`; None is
        "frozen_batch_norm", but no norm at all in VGG-16.
      stem: of a ResNet, "imagenet" (None) or "small", which halves all strides.
      stride_in_1x1: of a ResNet of bottlenecks, see `resnet.ResidualBlock`.
      dilate_c5: of a ResNet, see there.
      ceil_pools: of VGG-16, ZF and AlexNet, whether pools round up as Caffe's do; None is True for
        ZF alone.
      num_anchors: anchors at each position (sizes x aspect ratios); 0 makes no RPN.
      head_channels: of the head's 3x3 convolutions.
      head_convolutions: how many of these it has.
      objectness: "sigmoid" or "softmax", see `rpn_head.RPNHead`.
      remat: whether the backward pass runs the stages of the backbone again, see `Backbone`.
      dtype: what to compute in, "float32" or "bfloat16"; parameters and outputs are float32.
      box: fields of the box head, see `build_box_head`; None is none.
      mask: fields of the mask head, see `mask_head.MaskHead`; None is none.

    Raises a `UserError` for an unknown name, and for options that the backbone does not have or
    that exclude each other.
    """
    constructor = named_backbone(backbone)
    compute_dtype = DTYPES[choose("dtype", dtype, DTYPES)]
    choose("objectness", objectness, ("sigmoid", "softmax"))
    options = {
        "norm": norm,
        "stem": stem,
        "stride_in_1x1": stride_in_1x1,
        "dilate_c5": dilate_c5,
        "ceil_pools": ceil_pools,
    }
    options = {name: value for name, value in options.items() if value is not None}
    for name, value in options.items():
        choose(name, value, _OPTIONS[name])
        if not hasattr(constructor(), name):
            having = [other for other, one in BACKBONES.items() if hasattr(one(), name)]
            raise UserError(
                f"config.model.{name}: {backbone} has no such option; set it to None, or "
                f"config.model.backbone to one of {', '.join(having)}"
            )
    neck_module = None if neck is None else named_neck(neck)(fpn_channels, compute_dtype, fpn_norm)
    output_stages = _output_stages(constructor, output_stage, neck, neck_module, dilate_c5)
    check_stages(backbone, constructor, output_stages)
    num_stages = resnet.STAGES.index(output_stages[-1]) + 1
    if not 0 <= frozen_stages <= num_stages:
        raise UserError(
            f"config.model.frozen_stages: is {frozen_stages}, but {backbone} up to "
            f"{output_stages[-1]} has {num_stages} stages; give 0 to {num_stages}"
        )
    module = constructor(
        frozen_stages=frozen_stages,
        output_stages=output_stages,
        remat=remat,
        dtype=compute_dtype,
        **options,
    )
    check_fit(backbone, module, neck, neck_module)
    rpn = RPNHead(num_anchors, head_channels, objectness, compute_dtype, head_convolutions)
    return RCNN(
        backbone=module,
        rpn=rpn if num_anchors else None,
        neck=neck_module,
        box=None if box is None else build_box_head(module, compute_dtype, **box),
        mask=None if mask is None else MaskHead(**mask, dtype=compute_dtype),
    )


def build_box_head(
    backbone: nn.Module,
    dtype: DTypeLike,
    *,
    kind: str,
    num_classes: int,
    pooled_size: int,
    channels: int,
    dropout: float,
    norm: str | None,
    class_agnostic: bool,
) -> BoxHead:
    """Returns the head that the fields of `config.box` describe.

    Raises a `UserError` if the backbone has no stage for the head "c5".
    """
    shared = {
        "num_classes": num_classes,
        "pooled_hw": (pooled_size, pooled_size),
        "class_agnostic": class_agnostic,
        "dtype": dtype,
    }
    if kind == "fc":
        return FullyConnectedHead(channels=channels, dropout=dropout, **shared)
    if kind == "conv":
        return ConvolutionHead(channels=channels, norm=norm, **shared)
    if not isinstance(backbone, resnet.ResNet) or backbone.output_stages != ("c4",):
        raise UserError(
            'config.box.head: "c5" is the last stage of a ResNet whose output is c4; give "fc", or '
            "a ResNet as config.model.backbone, with neither neck nor dilate_c5"
        )
    if backbone.norm == "sync_batch_norm":
        raise UserError(
            'config.box.head: "c5" takes no statistics of its regions; give '
            "config.model.norm=frozen_batch_norm or group_norm"
        )
    return StageHead(stage=backbone.stage_of("c5"), **shared)


def _output_stages(constructor, output_stage, neck, neck_module, dilate_c5) -> tuple[str, ...]:
    """Returns the stages whose features the neck, or the head, is given."""
    if neck is not None:
        for name, value in {"output_stage": output_stage, "dilate_c5": dilate_c5}.items():
            if value:
                raise UserError(
                    f"config.model.{name}: is {value!r}, but with config.model.neck={neck!r} the "
                    f"head sits on levels of {neck_module.stages[0]} to {neck_module.stages[-1]}; "
                    "set one of the two to None"
                )
        return neck_module.stages
    if output_stage is not None:
        choose("output_stage", output_stage, resnet.STAGES)
    if not dilate_c5:
        return (output_stage,) if output_stage else constructor().output_stages
    if output_stage not in (None, "c5"):
        raise UserError(
            f"config.model.dilate_c5: c5 is not computed with config.model.output_stage="
            f"{output_stage!r}; set one of the two to None"
        )
    return ("c5",)


def init_variables(network: RCNN, key: jax.Array) -> dict:
    """Returns variables drawn from the run's key; the size of the image plays no part in them.

    What Flax draws for a layer follows from the key and the layer's path. The RPN's head is drawn
    under the path that it had in version 0.1, so that a seed still gives the same numbers.
    """
    key = jax.random.fold_in(key, 0)
    variables = network.init(key, np.zeros((1, 64, 64, 3), np.float32))
    if network.rpn is None:
        return variables
    channels = variables["params"]["rpn"]["conv"]["kernel"].shape[2]
    drawn = _UnderItsOldPath(network.rpn.clone()).init(key, jnp.zeros((1, 1, 1, channels)))
    return {**variables, "params": {**variables["params"], "rpn": drawn["params"]["head"]}}


class _UnderItsOldPath(nn.Module):
    head: nn.Module

    def __call__(self, features):
        return self.head(features)


def current_path(path: Sequence[str]) -> tuple[str, ...]:
    """Returns the path that a variable of version 0.1, or of today, has today."""
    return tuple("rpn" if part == "head" else part for part in path)


def variable_shapes(network: RCNN) -> dict:
    """Returns the shapes of the network's variables, for which nothing is compiled."""
    return jax.eval_shape(lambda: init_variables(network, jax.random.key(0)))
