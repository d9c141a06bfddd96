"""The second stage: from proposals to detections (Fast R-CNN, arXiv 1504.08083, section 2).

Here and below: P proposals of an image; R regions of a training sample; C classes, of which 0 is
background; D detections. All functions are pure and take one image.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, PRNGKeyArray

from rpn_jax.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from rpn_jax.ops.losses import smooth_l1
from rpn_jax.ops.matching import match_anchors
from rpn_jax.ops.nms import sorted_nms
from rpn_jax.ops.sampling import sample_slots
from rpn_jax.ops.selection import top_k
from rpn_jax.typing import Array, Detections, GroundTruth, Proposals, Regions


class RegionTargets(NamedTuple):
    """How regions are labelled and sampled.

    Fields:
      fg_iou_threshold: from this IoU with an object on a proposal is that object's class.
      bg_iou_threshold: below this IoU it is background.
      lowest_bg_iou: below this IoU it is neither; Fast R-CNN's 0.1, or 0.
      ignore_ioa_threshold: a proposal that covers no object and has more than this part of its area
        inside an ignore region is neither.
      batch_size_per_image: R, regions that are sampled.
      positive_fraction: the largest part of them that covers objects.
      append_gt: whether the annotated boxes are proposals too.
    """

    fg_iou_threshold: float = 0.5
    bg_iou_threshold: float = 0.5
    lowest_bg_iou: float = 0.0
    ignore_ioa_threshold: float = 0.5
    batch_size_per_image: int = 128
    positive_fraction: float = 0.25
    append_gt: bool = True


class DetectionLimits(NamedTuple):
    """Which boxes are detections.

    Fields:
      score_threshold: a box of a class is one if its probability is above this.
      nms_threshold: of two boxes of a class whose IoU is above this, the better stays.
      top_n: D, how many detections an image has at most.
      max_candidates: how many boxes above the threshold are looked at, the best ones.
      min_size: pixels of the network's input; a narrower or lower box goes.
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    top_n: int = 100
    max_candidates: int = 2000
    min_size: float = 0.0


@dataclasses.dataclass(frozen=True)
class BoxStage:
    """From proposals and features to classes and refined boxes.

    Fields:
      pool: makes the features (R, h, w, F) of boxes (R, 4) out of the levels of an image.
      targets: see `RegionTargets`.
      limits: see `DetectionLimits`.
      box_weights: multiply the deltas, see `boxes.encode_boxes`.
      balance: what the loss of the boxes is multiplied by.
      beta: see `losses.smooth_l1`.
      box_gradient: whether the loss has a gradient by the boxes of its regions, through `pool` and
        through the targets: the paper's non-approximate joint training.
    """

    pool: Callable[[tuple[Array, ...], Array], Array]
    targets: RegionTargets = RegionTargets()
    limits: DetectionLimits = DetectionLimits()
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    balance: float = 1.0
    beta: float = 1.0
    box_gradient: bool = False

    def sample(self, key: PRNGKeyArray, proposals: Proposals, ground_truth: GroundTruth) -> Regions:
        """Returns the regions on which an image trains the stage.

        The choice is not differentiated, and without `box_gradient` the boxes are not either:
        training is the paper's "approximate joint" one.

        Args:
          key: of this image.
          proposals: of this image, in pixels of the network's input.
          ground_truth: of this image, with labels.
        """
        targets, gt = self.targets, ground_truth
        boxes, valid, numbers = proposals.boxes, proposals.valid, proposals.anchor
        if numbers is None:
            numbers = jnp.arange(len(boxes))
        if targets.append_gt:
            boxes = jnp.concatenate([boxes, gt.boxes])
            # As unsigned numbers they are beyond those of all anchors.
            numbers = jnp.concatenate([numbers, ~jnp.arange(len(gt.boxes))])
            valid = jnp.concatenate([valid, gt.valid & ~gt.ignore])
        if not self.box_gradient:
            boxes = lax.stop_gradient(boxes)
        matches = match_anchors(
            lax.stop_gradient(boxes),
            gt.boxes,
            gt.valid,
            fg_iou_threshold=targets.fg_iou_threshold,
            bg_iou_threshold=targets.bg_iou_threshold,
            lowest_bg_iou=targets.lowest_bg_iou,
            allow_low_quality=False,
            gt_ignore=gt.ignore,
            ignore_ioa_threshold=targets.ignore_ioa_threshold,
            anchor_valid=valid,
        )
        index, taken = sample_slots(
            key, matches.labels, targets.batch_size_per_image, targets.positive_fraction, numbers
        )
        gt_index = matches.gt_index[index]
        is_positive = taken & (matches.labels[index] > 0)
        assert gt.labels is not None
        labels = jnp.where(is_positive, gt.labels[gt_index], 0)
        return Regions(boxes[index], taken, labels, gt_index)

    def loss_of(
        self,
        logits: Float[Array, "R C"],
        deltas: Float[Array, "R _ 4"],
        regions: Regions,
        ground_truth: GroundTruth,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Returns an image's loss and what is logged of it.

        Both parts are divided by `batch_size_per_image`, however many regions were sampled, so that
        a mean over images does not depend on how devices share them. detectron2 and torchvision
        divide by the number that was sampled, which is the same where the sample is full.

        Args:
          logits: of the classes.
          deltas: of each class's box, or of the one that all share.
          regions: the sample.
          ground_truth: of this image.
        """
        count = self.targets.batch_size_per_image
        is_positive = regions.valid & (regions.labels > 0)
        sampled = jnp.where(regions.valid[:, None], logits, 0)
        log_p = jax.nn.log_softmax(sampled)
        entropy = -jnp.take_along_axis(log_p, regions.labels[:, None], axis=1)[:, 0]
        gt_boxes = ground_truth.boxes[regions.gt_index]
        targets = encode_boxes(regions.boxes, gt_boxes, self.box_weights)
        errors = jnp.where(is_positive[:, None], of_class(deltas, regions.labels) - targets, 0)
        loss_class = jnp.where(regions.valid, entropy, 0).sum() / count
        loss_class_box = self.balance * smooth_l1(errors, self.beta).sum() / count
        correct = regions.valid & (jnp.argmax(sampled, -1) == regions.labels)
        parts = {
            "loss_class": loss_class,
            "loss_class_box": loss_class_box,
            "class_accuracy": correct.sum() / jnp.maximum(regions.valid.sum(), 1),
            "sampled_objects": is_positive.sum(),
            "sampled_backgrounds": (regions.valid & ~is_positive).sum(),
        }
        return loss_class + loss_class_box, parts

    def detect(
        self,
        logits: Float[Array, "P C"],
        deltas: Float[Array, "P _ 4"],
        proposals: Proposals,
        image_hw: Float[Array, "2"],
    ) -> Detections:
        """Returns an image's detections, see `detect`."""
        return detect(
            logits,
            deltas,
            proposals.boxes,
            proposals.valid,
            image_hw,
            box_weights=self.box_weights,
            **self.limits._asdict(),
        )


def detect(
    logits: Float[Array, "P C"],
    deltas: Float[Array, "P _ 4"],
    boxes: Float[Array, "P 4"],
    valid: Bool[Array, " P"],
    image_hw: Float[Array, "2"],
    *,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    top_n: int = 100,
    max_candidates: int = 2000,
    min_size: float = 0.0,
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0),
) -> Detections:
    """Returns the detections of one image: softmax, decoding, exact greedy NMS within each class.

    Of equal scores the lower proposal comes first, then the lower class, as in torchvision. The
    number of candidates is static. Candidates of lower scores cannot suppress those of higher, so
    that the detections are exact where `overflow` is 0.

    Args:
      logits: of the classes, of which 0 is background.
      deltas: of each class's box, or of one that all classes share.
      boxes: the proposals.
      valid: True where the row is a proposal.
      image_hw: rows and columns of the image within its canvas.
      score_threshold: see `DetectionLimits`, also for the next four.
      nms_threshold: as above.
      top_n: as above.
      max_candidates: as above.
      min_size: as above.
      box_weights: those that the deltas were trained with.

    >>> found = detect(
    ...     jnp.array([[0.0, 3.0, 0.0]]), jnp.zeros((1, 3, 4)), jnp.array([[0.0, 0, 9, 9]]),
    ...     jnp.array([True]), jnp.array([20.0, 20.0]), top_n=2, box_weights=(1, 1, 1, 1))
    >>> found.labels.tolist(), found.valid.tolist(), round(float(found.scores[0]), 3)
    ([1, 0], [True, False], 0.909)
    """
    num_classes = logits.shape[1]
    scores = jax.nn.softmax(logits)[:, 1:]
    is_candidate = valid[:, None] & (scores > score_threshold)
    if min_size:
        every = jnp.repeat(boxes[:, None], deltas.shape[1], 1)
        refined = clip_boxes(decode_boxes(every, deltas, box_weights), image_hw[0], image_hw[1])
        is_large = jnp.all(refined[..., 2:] - refined[..., :2] >= min_size, axis=-1)
        is_candidate &= is_large[:, -(num_classes - 1) :]  # without the background's
    ranked = jnp.where(is_candidate, scores, -jnp.inf).reshape(-1)
    number = min(max_candidates, len(ranked))
    best, index = top_k(ranked, number)
    proposal, label = index // (num_classes - 1), index % (num_classes - 1) + 1
    decoded = decode_boxes(boxes[proposal], of_class(deltas[proposal], label), box_weights)
    decoded = clip_boxes(decoded, image_hw[0], image_hw[1])
    looked_at = best > -jnp.inf
    kept, found = sorted_nms(decoded, looked_at, nms_threshold, top_n, group=label)
    missed = is_candidate.sum() - looked_at.sum()
    return Detections(
        boxes=jnp.where(found[:, None], decoded[kept], 0),
        scores=jnp.where(found, best[kept], 0),
        labels=jnp.where(found, label[kept], 0),
        valid=found,
        overflow=jnp.where(found.all(), 0, missed),
    )


def of_class(deltas: Float[Array, "N _ 4"], labels: Array) -> Float[Array, "N 4"]:
    """Returns the deltas of each row's class, or of the one box that all classes share."""
    if deltas.shape[1] == 1:
        return deltas[:, 0]
    return jnp.take_along_axis(deltas, labels[:, None, None], axis=1)[:, 0]
