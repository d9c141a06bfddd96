"""Which anchors hold an object, which hold background, and which have no say."""

import enum

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from rpn_jax.ops.boxes import pairwise_ioa, pairwise_iou
from rpn_jax.typing import Array, Matches


class Label(enum.IntEnum):
    """The label of an anchor."""

    IGNORE = -1
    NEGATIVE = 0
    POSITIVE = 1


def match_anchors(
    anchors: Float[Array, "A 4"],
    gt_boxes: Float[Array, "G 4"],
    gt_valid: Bool[Array, " G"],
    *,
    fg_iou_threshold: float | int = 0.7,
    bg_iou_threshold: float | int = 0.3,
    allow_low_quality: bool = True,
    gt_ignore: Bool[Array, " G"] | None = None,
    ignore_ioa_threshold: float | int = 0.5,
    anchor_valid: Bool[Array, " A"] | None = None,
) -> Matches:
    """Labels each anchor by its overlap with the objects of an image.

    Section 3.1.2 of the paper. With `iou` an anchor's highest IoU with any object, it is POSITIVE
    if `iou >= fg_iou_threshold`, NEGATIVE if `iou < bg_iou_threshold`, and IGNORE in between.

    A positive regresses to the object that it overlaps most (the first of equals), as in
    py-faster-rcnn and torchvision, also where it is positive only for being the best of another
    object: it then learns the better fit, and that other object may go without an anchor.

    Args:
        anchors: the anchors of all levels.
        gt_boxes: annotated boxes, padded to G slots, of which there is at least one.
        gt_valid: which slots are not padding.
        fg_iou_threshold: from this IoU on an anchor is positive.
        bg_iou_threshold: below this IoU an anchor is negative.
        allow_low_quality: for each object, also the anchors that overlap it as much as any anchor
            does (ties included) are positive, whatever their IoU. An object that no anchor
            touches has a best of 0, which every anchor reaches: it makes none positive.
        gt_ignore: which slots are ignore regions instead of objects (none by default).
        ignore_ioa_threshold: an anchor that is not positive and has more than this part of its
            area inside one ignore region is IGNORE.
        anchor_valid: which anchors take part (all by default). The others are IGNORE and are
            nobody's best; their `iou` and `gt_index` are filled like the rest.

    Raises:
        ValueError: not 0 <= bg_iou_threshold <= fg_iou_threshold <= 1.
    """
    if not 0 <= bg_iou_threshold <= fg_iou_threshold <= 1:
        raise ValueError(
            f"need 0 <= bg_iou_threshold ({bg_iou_threshold}) <= "
            f"fg_iou_threshold ({fg_iou_threshold}) <= 1"
        )
    is_object = gt_valid if gt_ignore is None else gt_valid & ~gt_ignore
    iou = jnp.where(is_object[None, :], pairwise_iou(anchors, gt_boxes), 0)
    # The ties below compare IoUs for equality. Without the barrier the compiler may compute them
    # twice, inside two fused loops that round differently, and an object would lose its anchor.
    iou = jax.lax.optimization_barrier(iou)

    best_iou = jnp.max(iou, axis=1)
    positive = (best_iou >= fg_iou_threshold) & (best_iou > 0)
    if allow_low_quality:
        positive |= _is_best_of_an_object(iou, anchor_valid)
    labels = jnp.where(best_iou < bg_iou_threshold, Label.NEGATIVE, Label.IGNORE)
    if gt_ignore is not None:
        ignored = _is_inside_a_region(anchors, gt_boxes, gt_valid & gt_ignore, ignore_ioa_threshold)
        labels = jnp.where(ignored, Label.IGNORE, labels)
    labels = jnp.where(positive, Label.POSITIVE, labels)
    if anchor_valid is not None:
        labels = jnp.where(anchor_valid, labels, Label.IGNORE)
    return Matches(labels=labels, gt_index=jnp.argmax(iou, axis=1), iou=best_iou)


def _is_best_of_an_object(
    iou: Float[Array, "A G"], anchor_valid: Bool[Array, " A"] | None
) -> Bool[Array, " A"]:
    if anchor_valid is not None:
        iou = jnp.where(anchor_valid[:, None], iou, 0)
    best_of_object = jnp.max(iou, axis=0, initial=0)
    # No IoU reaches 2: the best of an object that nothing touches must not be equalled by all.
    best_of_object = jnp.where(best_of_object > 0, best_of_object, 2)
    return jnp.any(iou >= best_of_object[None, :], axis=1)


def _is_inside_a_region(
    anchors: Float[Array, "A 4"],
    regions: Float[Array, "G 4"],
    region_valid: Bool[Array, " G"],
    threshold: float | int,
) -> Bool[Array, " A"]:
    inside = pairwise_ioa(anchors, regions) > threshold
    return jnp.any(inside & region_valid[None, :], axis=1)
