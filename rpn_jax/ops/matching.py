"""Which anchors hold an object, which hold background, and which have no say."""

import enum
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Bool, Float, Int

from rpn_jax.ops.boxes import BoxColumns, box_columns, ioa, iou, pairwise_ioa, pairwise_iou
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

    `is_best`: no anchor that takes part overlaps some object more (False without `low_quality`, and
    without meaning for an anchor that does not take part). `in_region`: more than `ioa_threshold`
    of the anchor lies inside one ignore region.
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
    overlap = jnp.where(is_object[None, :], pairwise_iou(anchors, gt_boxes), 0)
    # Compared for equality below, it is computed once.
    overlap = lax.optimization_barrier(overlap)
    is_best = in_region = jnp.zeros(len(anchors), bool)
    if low_quality:
        rivals = overlap if anchor_valid is None else jnp.where(anchor_valid[:, None], overlap, 0)
        best_of_object = _out_of_reach_if_0(jnp.max(rivals, axis=0, initial=0))
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

    def in_lanes(x):
        return jnp.pad(x, (0, rows * _LANES - count)).reshape(rows, _LANES)

    anchors = BoxColumns(*map(in_lanes, box_columns(anchors)))
    takes_part = None if anchor_valid is None else in_lanes(anchor_valid)

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
        overlap = iou(anchors, box)
        is_best = total.is_best
        if low_quality:
            rivals = overlap if takes_part is None else jnp.where(takes_part, overlap, 0)
            is_best |= overlap >= _out_of_reach_if_0(_max_of_positives(rivals))
        higher = overlap > total.iou
        return Overlaps(
            iou=jnp.where(higher, overlap, total.iou),
            gt_index=jnp.where(higher, slot, total.gt_index),
            is_best=is_best,
            in_region=total.in_region,
        )

    def add_region(in_region, box, _):
        return in_region | (ioa(anchors, box) > ioa_threshold)

    nowhere = jnp.zeros((rows, _LANES), bool)
    zeros = jnp.zeros(nowhere.shape)
    total = Overlaps(zeros, zeros.astype(jnp.int32), nowhere, nowhere)
    total = over_groups(add_object, is_object, total)
    if is_region is not None:
        total = total._replace(in_region=over_groups(add_region, is_region, nowhere))
    return Overlaps(*(x.reshape(-1)[:count] for x in total))


def _out_of_reach_if_0(best: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """No IoU reaches 2: the best of an object that nothing touches must not be equalled by all."""
    return jnp.where(best > 0, best, 2)


def _max_of_positives(x: Float[Array, "..."]) -> Float[Array, ""]:
    """Returns the maximum as integers, of the same order, which XLA vectorises on a CPU."""
    highest = jnp.max(lax.bitcast_convert_type(x, jnp.int32), initial=0)
    return lax.bitcast_convert_type(highest, jnp.float32)
