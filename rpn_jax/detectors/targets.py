"""From anchors and ground truth to what the two heads should have said."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from rpn_jax.ops.anchors import centred_in_image, inside_image
from rpn_jax.ops.boxes import as_boxes, encode_boxes
from rpn_jax.ops.matching import match_anchors
from rpn_jax.ops.sampling import labels_of_sample, sample_anchors
from rpn_jax.typing import Array, GroundTruth, Targets


def takes_part_in_training(
    anchors: Float[Array, "A 4"],
    image_hw: Float[Array, "2"],
    drop_straddling: bool,
    straddle_tolerance: float | int,
) -> Bool[Array, " A"]:
    """Says which anchors of an image can be labelled, see `assign_targets`."""
    height, width = image_hw[0], image_hw[1]
    takes_part = centred_in_image(anchors, height, width)
    if drop_straddling:
        takes_part &= inside_image(anchors, height, width, straddle_tolerance)
    return takes_part


def assign_targets(
    key: PRNGKeyArray,
    anchors: Float[Array, "A 4"],
    ground_truth: GroundTruth,
    image_hw: Float[Array, "2"],
    *,
    fg_iou_threshold: float | int = 0.7,
    bg_iou_threshold: float | int = 0.3,
    allow_low_quality: bool = True,
    ignore_ioa_threshold: float | int = 0.5,
    drop_straddling: bool = True,
    straddle_tolerance: float | int = 0.0,
    batch_size_per_image: int = 256,
    positive_fraction: float | int = 0.5,
    box_weights: Sequence[float | int] = (1, 1, 1, 1),
) -> Targets:
    """Labels the anchors of one image, samples its mini-batch and encodes its boxes.

    Sections 3.1.2 and 3.1.3 of the paper. An anchor that takes no part (below) is IGNORE and
    cannot be an object's best, so that each object gets the best of those that do, as in
    py-faster-rcnn; detectron2 matches first and drops afterwards, and loses such objects.

    Args:
        key: for the sampling.
        anchors: the anchors of all levels.
        ground_truth: of this image, in pixels of the network's input.
        image_hw: height and width of the image inside its padded canvas. An anchor with its
            centre in the padding takes no part.
        fg_iou_threshold: see `match_anchors`, also for the next three.
        bg_iou_threshold: as above.
        allow_low_quality: as above.
        ignore_ioa_threshold: as above.
        drop_straddling: whether anchors that cross the border of the image take no part.
        straddle_tolerance: by how many pixels they may cross it.
        batch_size_per_image: how many anchors to sample.
        positive_fraction: the largest part of them that is positive.
        box_weights: see `encode_boxes`.

    >>> import jax
    >>> anchors = [[0, 0, 16, 16], [8, 0, 24, 16], [16, 0, 32, 16]]
    >>> objects = GroundTruth(boxes=[[0, 0, 16, 15]], valid=[True], ignore=[False])
    >>> assign_targets(jax.random.key(0), anchors, objects, (16, 32)).labels.tolist()
    [1, -1, 0]
    """
    anchors, gt_boxes = as_boxes(anchors), as_boxes(ground_truth.boxes)
    takes_part = takes_part_in_training(anchors, image_hw, drop_straddling, straddle_tolerance)
    matches = match_anchors(
        anchors,
        gt_boxes,
        ground_truth.valid,
        fg_iou_threshold=fg_iou_threshold,
        bg_iou_threshold=bg_iou_threshold,
        allow_low_quality=allow_low_quality,
        gt_ignore=ground_truth.ignore,
        ignore_ioa_threshold=ignore_ioa_threshold,
        anchor_valid=takes_part,
    )
    positives, negatives = sample_anchors(
        key, matches.labels, batch_size_per_image, positive_fraction
    )
    labels = labels_of_sample(positives, negatives, len(anchors))
    # Only what is sampled is encoded: a hundred anchors instead of a hundred thousand.
    objects = jnp.asarray(gt_boxes if len(gt_boxes) else jnp.zeros((1, 4)))
    objects = objects[matches.gt_index[positives]]
    deltas = encode_boxes(jnp.asarray(anchors)[positives], objects, box_weights)
    nothing = jnp.zeros(anchors.shape)
    deltas = nothing.at[positives].set(deltas, mode="drop", unique_indices=True)
    return Targets(labels=labels, deltas=deltas, matches=matches)
