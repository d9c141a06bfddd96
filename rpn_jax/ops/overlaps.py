"""How anchors overlap objects, in the forms that suit an accelerator and a CPU."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Bool, Float, Int

from rpn_jax.ops.boxes import BoxColumns, area, box_columns, ioa, iou, pairwise_ioa, pairwise_iou
from rpn_jax.typing import Array

# On a CPU: anchors in a row of an array, and objects that a pass over all anchors deals with.
_LANES = 1024
_GROUP = 4


class Overlaps(NamedTuple):
    """What the labels are made of; see `Matches` for the first two.

    `is_best`: no anchor overlaps some object more (False without `low_quality`). `in_region`: more
    than `ioa_threshold` of the anchor lies inside one ignore region.
    """

    iou: Float[Array, " A"]
    gt_index: Int[Array, " A"]
    is_best: Bool[Array, " A"]
    in_region: Bool[Array, " A"]


def anchor_overlaps(
    anchors: Float[Array, "A 4"],
    gt_boxes: Float[Array, "G 4"],
    is_object: Bool[Array, " G"],
    is_region: Bool[Array, " G"] | None,
    anchor_valid: Bool[Array, " A"] | None,
    *,
    low_quality: bool,
    ioa_threshold: float | int,
) -> Overlaps:
    """Returns how each anchor overlaps the objects and the ignore regions. No gradient flows."""
    options: dict[str, Any] = {"low_quality": low_quality, "ioa_threshold": ioa_threshold}
    arrays = (anchors, gt_boxes, is_object, is_region, anchor_valid)
    return lax.platform_dependent(
        *jax.tree.map(lambda x: lax.stop_gradient(jnp.asarray(x)), arrays),
        cpu=sequential_vmap(functools.partial(overlaps_by_object, **options)),
        default=functools.partial(overlaps_at_once, **options),
    )


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
            # columns first, because of both axes at once XLA makes windows: see `docs/cpu.md`.
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
