"""Which anchors hold an object, which hold background, and which have no say."""

import enum
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Bool, Float, Int

from rpn_jax.ops.boxes import BoxColumns, area, box_columns, ioa, iou, pairwise_ioa, pairwise_iou
from rpn_jax.typing import Array, Matches

# On a CPU: anchors in a row of an array, and objects that a pass over all anchors deals with.
_LANES = 1024
_GROUP = 4


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
    object: it then learns the better fit, and that other object may go without an anchor. Nothing
    is differentiated.

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
        anchor_valid: which anchors take part (all by default). The others overlap nothing: they
            are IGNORE and nobody's best, with an `iou` of 0.

    Raises:
        ValueError: not 0 <= bg_iou_threshold <= fg_iou_threshold <= 1.
    """
    if not 0 <= bg_iou_threshold <= fg_iou_threshold <= 1:
        raise ValueError(
            f"need 0 <= bg_iou_threshold ({bg_iou_threshold}) <= "
            f"fg_iou_threshold ({fg_iou_threshold}) <= 1"
        )
    if anchor_valid is not None:
        # Computed once, not again with every use.
        anchor_valid = lax.optimization_barrier(jnp.asarray(anchor_valid))
    is_object = gt_valid if gt_ignore is None else gt_valid & ~gt_ignore
    is_region = None if gt_ignore is None else gt_valid & gt_ignore
    boxes_and_flags = (anchors, gt_boxes, is_object, is_region, anchor_valid)
    options = {"low_quality": allow_low_quality, "ioa_threshold": ignore_ioa_threshold}
    overlaps = lax.platform_dependent(
        *jax.tree.map(lambda x: lax.stop_gradient(jnp.asarray(x)), boxes_and_flags),
        cpu=sequential_vmap(functools.partial(overlaps_by_object, **options)),
        default=functools.partial(overlaps_at_once, **options),
    )

    positive = (overlaps.iou >= fg_iou_threshold) & (overlaps.iou > 0)
    positive |= overlaps.is_best
    labels = jnp.where(overlaps.iou < bg_iou_threshold, Label.NEGATIVE, Label.IGNORE)
    labels = jnp.where(overlaps.in_region, Label.IGNORE, labels)
    labels = jnp.where(positive, Label.POSITIVE, labels)
    if anchor_valid is not None:
        labels = jnp.where(anchor_valid, labels, Label.IGNORE)
    return Matches(labels=labels, gt_index=overlaps.gt_index, iou=overlaps.iou)


class Overlaps(NamedTuple):
    """What the labels are made of; see `Matches` for the first two.

    `is_best`: no anchor overlaps some object more (False without `low_quality`). `in_region`: more
    than `ioa_threshold` of the anchor lies inside one ignore region.
    """

    iou: Float[Array, " A"]
    gt_index: Int[Array, " A"]
    is_best: Bool[Array, " A"]
    in_region: Bool[Array, " A"]


def overlaps_at_once(
    anchors: Float[Array, "A 4"],
    gt_boxes: Float[Array, "G 4"],
    is_object: Bool[Array, " G"],
    is_region: Bool[Array, " G"] | None,
    anchor_valid: Bool[Array, " A"] | None,
    *,
    low_quality: bool,
    ioa_threshold: float | int,
) -> Overlaps:
    """Returns the overlaps from the whole matrix of anchors by objects: plain, for accelerators."""
    if anchor_valid is not None:
        anchors = jnp.where(anchor_valid[:, None], anchors, 0)  # without area, they overlap nothing
    overlap = jnp.where(is_object[None, :], pairwise_iou(anchors, gt_boxes), 0)
    # Compared for equality below, it is computed once.
    overlap = lax.optimization_barrier(overlap)
    is_best = in_region = jnp.zeros(len(anchors), bool)
    if low_quality:
        best_of_object = jnp.max(overlap, axis=0, initial=0)
        # No IoU reaches 2: the best of an object that nothing touches must not be equalled by all.
        best_of_object = jnp.where(best_of_object > 0, best_of_object, 2)
        is_best = jnp.any(overlap >= best_of_object[None, :], axis=1)
    if is_region is not None:
        inside = pairwise_ioa(anchors, gt_boxes) > ioa_threshold
        in_region = jnp.any(inside & is_region[None, :], axis=1)
    return Overlaps(jnp.max(overlap, axis=1), jnp.argmax(overlap, axis=1), is_best, in_region)


def overlaps_by_object(
    anchors: Float[Array, "A 4"],
    gt_boxes: Float[Array, "G 4"],
    is_object: Bool[Array, " G"],
    is_region: Bool[Array, " G"] | None,
    anchor_valid: Bool[Array, " A"] | None,
    *,
    low_quality: bool,
    ioa_threshold: float | int,
) -> Overlaps:
    """Returns the same overlaps from a few objects at a time, for CPUs.

    The matrix would go through the memory several times. Here each object is compared with all
    anchors, once for the best of them and once for the rest, and slots of padding at the end cost
    nothing; nor do ignore regions where there are none.
    """
    count, slots = len(anchors), len(gt_boxes)
    rows, groups = -(-count // _LANES), -(-slots // _GROUP)

    # One array for all four, of which each pass over the anchors takes its parts: four would be
    # four more passes. For the same reason what is not a box is infinitely large here and keeps its
    # coordinates: that too makes its overlaps 0.
    sides = anchors.T if anchor_valid is None else jnp.where(anchor_valid[None, :], anchors.T, 0)
    sides = jnp.pad(sides, ((0, 0), (0, rows * _LANES - count))).reshape(4, rows, _LANES)
    sides = lax.optimization_barrier(sides)
    areas = area(jnp.moveaxis(sides, 0, -1))
    areas = jnp.where(areas > 0, areas, jnp.inf)

    def over_groups(add, valid, total):
        """Adds (columns, slot) of one box after another, up to the last valid one, to `total`."""
        columns = jnp.stack(box_columns(gt_boxes, valid))
        columns = jnp.pad(columns, ((0, 0), (0, groups * _GROUP - slots)))

        def add_group(group, total):
            first = group * _GROUP
            members = lax.dynamic_slice_in_dim(columns, first, _GROUP, axis=1)
            for i in range(_GROUP):
                total = add(total, BoxColumns(*members[:, i]), first + i)
            return total

        used = jnp.max(jnp.where(valid, jnp.arange(slots) + 1, 0))
        return lax.fori_loop(0, -(-used // _GROUP), add_group, total)

    def add_object(total, box, slot):
        # As integers, of the same order, whose maximum XLA vectorises on a CPU.
        overlap = lax.bitcast_convert_type(iou(BoxColumns(*sides, areas), box), jnp.int32)
        overlap = lax.optimization_barrier(overlap)
        is_best = total.is_best
        if low_quality:
            # From 1 on, so that the best of an object that nothing touches is out of reach. And by
            # columns first: of both axes at once XLA makes windows, 2.6 times as slow on 120,015.
            highest = lax.optimization_barrier(jnp.max(overlap, axis=0, initial=1))
            is_best |= overlap >= jnp.max(highest)
        higher = overlap > total.iou
        return Overlaps(
            iou=jnp.where(higher, overlap, total.iou),
            gt_index=jnp.where(higher, slot, total.gt_index),
            is_best=is_best,
            in_region=total.in_region,
        )

    def add_region(in_region, box, _):
        return in_region | (ioa(BoxColumns(*sides, areas), box) > ioa_threshold)

    nowhere = jnp.zeros((rows, _LANES), bool)
    zeros = jnp.zeros(nowhere.shape, jnp.int32)
    total = over_groups(add_object, is_object, Overlaps(zeros, zeros, nowhere, nowhere))
    total = total._replace(iou=lax.bitcast_convert_type(total.iou, jnp.float32))
    if is_region is not None:
        total = total._replace(in_region=over_groups(add_region, is_region, nowhere))
    return Overlaps(*(x.reshape(-1)[:count] for x in total))
