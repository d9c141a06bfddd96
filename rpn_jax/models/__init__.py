"""Flax Linen modules: features, objectness logits and box deltas, nothing else."""

import functools
from collections.abc import Collection

import jax.numpy as jnp

from rpn_jax.errors import UserError
from rpn_jax.models import norms, resnet, vgg
from rpn_jax.models.resnet import ResNet
from rpn_jax.models.rpn import RegionProposalNetwork, RPNHead, trainable_mask
from rpn_jax.models.vgg import VGG16

__all__ = ["BACKBONES", "RegionProposalNetwork", "build_rpn", "trainable_mask"]

BACKBONES = {
    "vgg16": VGG16,
    "resnet18": functools.partial(ResNet, depths=(2, 2, 2, 2), bottleneck=False),
    "resnet34": functools.partial(ResNet, depths=(3, 4, 6, 3), bottleneck=False),
    "resnet50": functools.partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True),
    "resnet101": functools.partial(ResNet, depths=(3, 4, 23, 3), bottleneck=True),
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_rpn(
    *,
    backbone: str = "vgg16",
    output_stage: str | None = None,
    frozen_stages: int = 0,
    norm: str | None = None,
    stem: str | None = None,
    stride_in_1x1: bool | None = None,
    num_anchors: int = 9,
    head_channels: int = 512,
    objectness: str = "sigmoid",
    dtype: str = "float32",
) -> RegionProposalNetwork:
    """Returns the network that the fields of `config.model` describe.

    The fields:
      backbone: a name of `BACKBONES`.
      output_stage: "c1" to "c5", where the head sits; None is c5 (conv5_3) of VGG-16 and c4 of a
        ResNet, both at stride 16. The network's `strides` follow.
      frozen_stages: so many of the first stages are not trained; the paper freezes 2 of VGG-16.
      norm: of a ResNet, a name of `norms.NORMS`; None is "frozen_batch_norm".
      stem: of a ResNet, "imagenet" (None) or "small", which halves all strides.
      stride_in_1x1: of a ResNet of bottlenecks, see `resnet.ResidualBlock`.
      num_anchors: anchors at each position (sizes x aspect ratios).
      head_channels: of the head's 3x3 convolution.
      objectness: "sigmoid" or "softmax", see `rpn.RPNHead`.
      dtype: what to compute in, "float32" or "bfloat16"; parameters and outputs are float32.

    Raises a `UserError` for an unknown name, and for an option that the backbone does not have.
    """
    constructor = BACKBONES[_choose("backbone", backbone, BACKBONES)]
    compute_dtype = DTYPES[_choose("dtype", dtype, DTYPES)]
    _choose("objectness", objectness, ("sigmoid", "softmax"))
    of_resnets = {"norm": norm, "stem": stem, "stride_in_1x1": stride_in_1x1}
    options = {name: value for name, value in of_resnets.items() if value is not None}
    if constructor is VGG16:
        stages, last_stage = tuple(vgg.STAGES), "c5"
        if options:
            raise UserError(
                f"config.model.{next(iter(options))}: vgg16 has no such option; set it to None, "
                "or config.model.backbone to a ResNet"
            )
    else:
        stages, last_stage = resnet.STAGES, "c4"
        _choose("norm", norm or "frozen_batch_norm", norms.NORMS)
        _choose("stem", stem or "imagenet", ("imagenet", "small"))
    if output_stage is not None:
        last_stage = _choose("output_stage", output_stage, stages)
    num_stages = stages.index(last_stage) + 1
    if not 0 <= frozen_stages <= num_stages:
        raise UserError(
            f"config.model.frozen_stages: is {frozen_stages}, but {backbone} up to {last_stage} "
            f"has {num_stages} stages; give 0 to {num_stages}"
        )
    return RegionProposalNetwork(
        backbone=constructor(
            frozen_stages=frozen_stages,
            output_stages=(last_stage,),
            dtype=compute_dtype,
            **options,
        ),
        head=RPNHead(num_anchors, head_channels, objectness, compute_dtype),
    )


def _choose(field: str, name: str, known: Collection[str]) -> str:
    """Returns `name`, which must be one of `known`."""
    if name not in known:
        raise UserError(f"config.model.{field}: {name!r} is unknown; use one of {', '.join(known)}")
    return name
