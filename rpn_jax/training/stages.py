"""The stages of a detector, as a config describes them: their heads' fields and their settings."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.detectors.box import BoxStage, DetectionLimits, RegionTargets
from rpn_jax.detectors.mask import MaskStage
from rpn_jax.detectors.rpn import Counts, ProposalStage
from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import RCNN
from rpn_jax.ops.anchors import cell_anchors
from rpn_jax.ops.roi import pyramid_roi_align, roi_pool
from rpn_jax.runs.config import sizes_per_level
from rpn_jax.typing import Array


def rpn_head_fields(config: ConfigDict) -> dict[str, Any]:
    """Returns what `rcnn.build_rcnn` is to know of the config's first stage."""
    if "rpn" not in config:
        return {"num_anchors": 0}
    return {
        "num_anchors": len(anchors_at_origin(config)[0]),
        "head_channels": config.rpn.channels,
        "head_convolutions": config.rpn.convolutions,
        "objectness": config.rpn.objectness,
    }


def proposal_stage(config: ConfigDict) -> ProposalStage:
    """Returns the first stage of the config's detector."""
    rpn = config.rpn
    train, test = (Counts(**rpn.proposals[name]) for name in ("train", "test"))
    # Recall is measured with more proposals than a second stage would get.
    most = max(config.evaluation.top_ns)
    return ProposalStage(
        cells=anchors_at_origin(config),
        offset=rpn.anchors.offset,
        floor_strides=rpn.anchors.rounding == "torchvision",
        targets=rpn.targets.to_dict(),
        loss=rpn.loss.to_dict(),
        box_weights=rpn.box_weights,
        train=train,
        test=test,
        measured=Counts(*(max(count, most) for count in test)),
        nms_threshold=rpn.proposals.nms_threshold,
        min_size=rpn.proposals.min_size,
        keep_padding=rpn.proposals.keep_padding,
    )


def box_head_fields(config: ConfigDict) -> dict[str, Any] | None:
    """Returns what `rcnn.build_rcnn` is to know of the config's second stage, None without one."""
    if "box" not in config:
        return None
    if not config.box.class_names:
        raise UserError(
            "config.box.class_names: the classes are not known before the data are; give them, or "
            "prepare the data"
        )
    return {
        "kind": config.box.head,
        "num_classes": 1 + len(config.box.class_names),
        "pooled_size": config.box.pooling.size,
        "channels": config.box.channels,
        "dropout": config.box.dropout,
        "norm": config.box.norm,
        "class_agnostic": config.box.class_agnostic,
    }


def box_stage(config: ConfigDict, network: RCNN) -> BoxStage:
    """Returns the second stage of the config's detector."""
    box, pooling = config.box, config.box.pooling
    strides, box_gradient = network.pooled_strides, _has_box_gradient(config)
    if pooling.kind == "align":
        pool = _align(pooling, strides, box_gradient=box_gradient)
    elif len(strides) == 1:
        pool = functools.partial(_pool_level, size=pooling.size, scale=1 / strides[0])
    else:
        raise UserError(
            'config.box.pooling.kind: RoIPool has no pyramid of levels; give "align", or '
            "config.model.neck=None"
        )
    return BoxStage(
        pool=pool,
        targets=RegionTargets(**box.targets),
        limits=DetectionLimits(**box.detections),
        box_weights=box.box_weights,
        box_gradient=box_gradient,
        **box.loss,
    )


def _has_box_gradient(config: ConfigDict) -> bool:
    """Returns whether the two stages are trained jointly without approximation."""
    if "joint" not in config or not config.joint.box_gradient:
        return False
    if config.box.pooling.kind != "align":
        raise UserError(
            "config.joint.box_gradient: RoIPool rounds boxes to cells and has no gradient by them; "
            "set config.box.pooling.kind to align"
        )
    return True


def mask_head_fields(config: ConfigDict) -> dict[str, Any] | None:
    """Returns what `rcnn.build_rcnn` is to know of the config's third stage, None without one."""
    if "mask" not in config:
        return None
    mask = config.mask
    if config.box.head == "c5" and mask.pooling.size != config.box.pooling.size:
        raise UserError(
            f"config.mask.pooling.size: is {mask.pooling.size}, but stage c5, which the two heads "
            f"share, gets {config.box.pooling.size} of the box head; set it to that"
        )
    return {
        "num_classes": 1 + len(config.box.class_names),
        "pooled_hw": (mask.pooling.size, mask.pooling.size),
        "channels": mask.channels,
        "convolutions": mask.convolutions,
        "norm": mask.norm,
    }


def mask_stage(config: ConfigDict, network: RCNN) -> MaskStage:
    """Returns the third stage of the config's detector."""
    mask, targets = config.mask, config.box.targets
    return MaskStage(
        pool=_align(mask.pooling, network.pooled_strides),
        max_objects=int(targets.batch_size_per_image * targets.positive_fraction),
        **mask.targets,
        **mask.loss,
    )


def _align(
    pooling: ConfigDict, strides: Sequence[int], box_gradient: bool = False
) -> Callable[..., Array]:
    return functools.partial(
        pyramid_roi_align,
        size=pooling.size,
        strides=strides,
        sampling_ratio=pooling.sampling_ratio,
        aligned=pooling.aligned,
        canonical_size=pooling.canonical_size,
        eps=pooling.level_eps,
        box_gradient=box_gradient,
    )


def _pool_level(levels: tuple[Array, ...], boxes: Array, *, size: int, scale: float) -> Array:
    return roi_pool(levels[0], boxes, size=size, scale=scale)


def anchors_at_origin(config: ConfigDict) -> tuple[np.ndarray, ...]:
    """Returns each level's (K, 4) anchors of one position; raises a `UserError` for bad fields."""
    fields = config.rpn.anchors
    try:
        return tuple(
            cell_anchors(sizes, fields.aspect_ratios, rounding=fields.rounding)
            for sizes in sizes_per_level(config)
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"config.rpn.anchors: {error}; correct the field") from error
