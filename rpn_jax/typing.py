"""The shape letters, and the tuples that the package's layers pass to each other.

Shapes, in annotations and docstrings:
    B  images of a batch                   H, W  rows and columns of an image or a feature map
    A  anchors of an image, all levels     K     anchors at one position (sizes x aspect ratios)
    G  ground-truth slots of an image      P     proposal slots of an image
    R  regions of an image, of a sample    D     detection slots of an image
    C  classes, of which 0 is background   S     rows and columns of an object's mask
    M  rows and columns of a predicted mask
A box is `x1, y1, x2, y2` in continuous pixel coordinates, float32: its width is `x2 - x1`.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

# jaxtyping's own Array refuses NumPy arrays.
Array = jax.Array | np.ndarray


class GroundTruth(NamedTuple):
    """The annotations of one image, padded to G slots.

    An *object* is a slot with `valid & ~ignore`. An *ignore region* (a difficult VOC object, a
    COCO crowd) is a slot with `valid & ignore`: neither object nor background. A slot that is not
    `valid` is padding, whatever its box holds.

    A mask is cut to the object's box, which it divides into S x S cells: of each cell it holds the
    part that the object covers, in 255ths.
    """

    boxes: Float[Array, "*B G 4"]
    valid: Bool[Array, "*B G"]
    ignore: Bool[Array, "*B G"]
    labels: Int[Array, "*B G"] | None = None  # classes from 1 up; no RPN needs them
    masks: UInt8[Array, "*B G S S"] | None = None  # a mask stage alone needs them


class Matches(NamedTuple):
    """For each anchor: its label (see `ops.matching.Label`), its best object, their IoU.

    `gt_index` is the slot of the object that a positive anchor regresses to; for other anchors it
    is a valid index without meaning. `iou` is 0 without any object.
    """

    labels: Int[Array, "*B A"]
    gt_index: Int[Array, "*B A"]
    iou: Float[Array, "*B A"]


class Targets(NamedTuple):
    """The training targets of each anchor of an image.

    `labels` are IGNORE outside the sampled mini-batch. `deltas` are 0 except for positives.
    `matches` hold the labels before sampling.
    """

    labels: Int[Array, "*B A"]
    deltas: Float[Array, "*B A 4"]
    matches: Matches


class Proposals(NamedTuple):
    """Boxes by falling score, padded to P slots.

    `scores` are probabilities that the box holds an object; `level` is the index of the feature
    level that proposed it, `anchor` that of its anchor among those of all levels; None for given
    proposals, which have no anchor. A slot that is not `valid` has a box and a score of 0.
    """

    boxes: Float[Array, "*B P 4"]
    scores: Float[Array, "*B P"]
    valid: Bool[Array, "*B P"]
    level: Int[Array, "*B P"]
    anchor: Int[Array, "*B P"] | None = None


class Regions(NamedTuple):
    """The proposals on which a second stage is trained, the positives first, padded to R slots.

    `labels` are the classes of the objects that they cover, 0 for background. `gt_index` is the
    slot of a positive's object. A slot that is not `valid` has label 0.
    """

    boxes: Float[Array, "*B R 4"]
    valid: Bool[Array, "*B R"]
    labels: Int[Array, "*B R"]
    gt_index: Int[Array, "*B R"]


class Detections(NamedTuple):
    """Boxes of all classes by falling score, padded to D slots.

    `scores` are probabilities of the class in `labels`, which are from 1 up. A slot that is not
    `valid` has a box, score and label of 0. `overflow` is how many boxes above the score threshold
    were not looked at although a slot was left for them; 0 unless `max_candidates` is too low.
    `masks` are probabilities that a cell of the box, of M x M, belongs to the object.
    """

    boxes: Float[Array, "*B D 4"]
    scores: Float[Array, "*B D"]
    labels: Int[Array, "*B D"]
    valid: Bool[Array, "*B D"]
    overflow: Int[Array, "*B"]
    masks: Float[Array, "*B D M M"] | None = None  # of a mask stage


class Images(NamedTuple):
    """The part of a `Batch` on the devices; inside a step, B is the images of one device."""

    images: Array  # (B, H, W, 3) uint8 RGB
    image_hw: Array  # (B, 2) float32, the image's extent on its canvas
    image_index: Array  # (B,) int32, in the split
    ground_truth: GroundTruth
    features: tuple[Array, ...] | None = None  # (B, H_l, W_l, C) if known, see `features`
    proposals: Proposals | None = None  # given ones, for a detector without an RPN
