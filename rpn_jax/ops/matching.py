"""Which anchors are positive, which are negative, and which are ignored."""

import enum

import jax.numpy as jnp
from jaxtyping import Bool, Float

from rpn_jax.ops.barriers import computed_once
from rpn_jax.ops.boxes import as_boxes
from rpn_jax.ops.overlaps import anchor_overlaps
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
    lowest_bg_iou: float | int = 0.0,
) -> Matches:
    """Labels each anchor by its overlap with the objects of an image.

    Section 3.1.2 of the paper. With `iou` an anchor's highest IoU with any object, it is POSITIVE
    if `iou >= fg_iou_threshold`, NEGATIVE if `iou < bg_iou_threshold`, and IGNORE in between.

    A positive regresses to the object that it overlaps most (the first of equals), as in
    py-faster-rcnn and torchvision, also where it is positive only for being the best of another
    object: it then learns the better fit, and that other object may go without an anchor. Nothing
    is differentiated.

    Args:
        anchors: the anchors of all levels.
        gt_boxes: annotated boxes, padded to G slots, or none.
        gt_valid: which slots are not padding.
        fg_iou_threshold: from this IoU on an anchor is positive.
        bg_iou_threshold: below this IoU an anchor is negative.
        allow_low_quality: for each object, also the anchors that overlap it as much as any anchor
            does (ties included) are positive, whatever their IoU. An object that no anchor
            touches has a best of 0, which every anchor reaches: it makes none positive.
        gt_ignore: which slots are ignore regions instead of objects (none by default).
        ignore_ioa_threshold: an anchor that is not positive and has more than this part of its
            area inside one ignore region is IGNORE.
        anchor_valid: which anchors take part (all by default). The others overlap nothing: they
            are IGNORE and nobody's best, with an `iou` of 0.
        lowest_bg_iou: below this IoU an anchor is IGNORE instead of NEGATIVE (Fast R-CNN's 0.1).

    Raises:
        ValueError: not 0 <= bg_iou_threshold <= fg_iou_threshold <= 1.

    >>> anchors = [[0, 0, 10, 10], [0, 0, 10, 18], [50, 50, 60, 60]]
    >>> matches = match_anchors(anchors, [[0, 0, 10, 11]], [True])
    >>> [Label(label).name for label in matches.labels.tolist()]  # IoU 10/11, 11/18 and 0
    ['POSITIVE', 'IGNORE', 'NEGATIVE']
    """
    if not 0 <= bg_iou_threshold <= fg_iou_threshold <= 1:
        raise ValueError(
            f"need 0 <= bg_iou_threshold ({bg_iou_threshold}) <= "
            f"fg_iou_threshold ({fg_iou_threshold}) <= 1"
        )
    anchors, gt_boxes = as_boxes(anchors), as_boxes(gt_boxes)
    gt_valid = jnp.asarray(gt_valid, bool)
    gt_ignore = None if gt_ignore is None else jnp.asarray(gt_ignore, bool)
    if not len(gt_boxes):  # a slot of padding stands for no slot
        gt_boxes, gt_valid, gt_ignore = jnp.zeros((1, 4)), jnp.zeros(1, bool), None
    if anchor_valid is not None:
        anchor_valid = computed_once(jnp.asarray(anchor_valid))
    is_object = gt_valid if gt_ignore is None else gt_valid & ~gt_ignore
    is_region = None if gt_ignore is None else gt_valid & gt_ignore
    overlaps = anchor_overlaps(
        anchors,
        gt_boxes,
        is_object,
        is_region,
        anchor_valid,
        low_quality=allow_low_quality,
        ioa_threshold=ignore_ioa_threshold,
    )

    positive = (overlaps.iou >= fg_iou_threshold) & (overlaps.iou > 0)
    positive |= overlaps.is_best
    labels = jnp.where(overlaps.iou < bg_iou_threshold, Label.NEGATIVE, Label.IGNORE)
    if lowest_bg_iou:
        labels = jnp.where(overlaps.iou < lowest_bg_iou, Label.IGNORE, labels)
    labels = jnp.where(overlaps.in_region, Label.IGNORE, labels)
    labels = jnp.where(positive, Label.POSITIVE, labels)
    if anchor_valid is not None:
        labels = jnp.where(anchor_valid, labels, Label.IGNORE)
    return Matches(labels=labels, gt_index=overlaps.gt_index, iou=overlaps.iou)
