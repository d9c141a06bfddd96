"""The detections of an image, and what the matching to its annotated boxes says about each.

Axes: D  detections    G  annotated boxes    A  size ranges (`recall.SIZE_RANGES`)
      T  IoU thresholds (`matching.IOU_THRESHOLDS`)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.evaluation.recall import SIZE_RANGES
from rpn_jax.typing import Array


class ImageDetections(NamedTuple):
    """The detections and annotations of one image, in original pixels.

    Detections come in any order; of equal scores the earlier one counts as the better. Labels are
    those of the dataset, from 0. `gt_ignore` is True for difficult and crowd boxes, which are not
    objects to be found. `gt_areas` are the annotated areas (of the masks in COCO), not the boxes'.
    `masks` and `gt_masks` are as `rpn_jax.data.masks` has them, of an image of `hw`; None where
    there are none.
    """

    image_id: int
    boxes: Float[Array, "D 4"]
    scores: Float[Array, " D"]
    labels: Int[Array, " D"]
    gt_boxes: Float[Array, "G 4"]
    gt_labels: Int[Array, " G"]
    gt_ignore: Bool[Array, " G"]
    gt_areas: Float[Array, " G"]
    masks: Sequence[bytes] | None = None
    gt_masks: Sequence[bytes] | None = None
    hw: tuple[int, int] | None = None


class DetectionMatches(NamedTuple):
    """The detections of one image or several, by image id, then class, then falling score.

    Fields:
      label, score: of the detection.
      place: its rank among the detections of its image and class, from 0.
      hit: COCO matches it to a box, by size range and IoU threshold.
      ignored: COCO leaves it out, because that box is no object or because its own size is another.
      voc: what VOC counts it as: 1 found an object, 0 is false, -1 is left out.
      error: why it is false at IoU 0.5, an `errors.Error`.
      corrected_label: the class of the object that it finds when that error is mended, or -1.
      gt_label: class of an annotated box.
      gt_counts: whether the box is an object of the size range.
      gt_missed: whether it is an object that no detection finds, even when its error is mended.
    """

    label: Int[Array, " D"]
    score: Float[Array, " D"]
    place: Int[Array, " D"]
    hit: Bool[Array, "D A T"]
    ignored: Bool[Array, "D A T"]
    voc: Int[Array, " D"]
    error: Int[Array, " D"]
    corrected_label: Int[Array, " D"]
    gt_label: Int[Array, " G"]
    gt_counts: Bool[Array, "G A"]
    gt_missed: Bool[Array, " G"]


_A, _T = len(SIZE_RANGES), len(IOU_THRESHOLDS)
_NOTHING = DetectionMatches(
    label=np.zeros(0, np.int32),
    score=np.zeros(0, np.float64),
    place=np.zeros(0, np.int32),
    hit=np.zeros((0, _A, _T), bool),
    ignored=np.zeros((0, _A, _T), bool),
    voc=np.zeros(0, np.int8),
    error=np.zeros(0, np.int8),
    corrected_label=np.zeros(0, np.int32),
    gt_label=np.zeros(0, np.int32),
    gt_counts=np.zeros((0, _A), bool),
    gt_missed=np.zeros(0, bool),
)


def in_order(image: ImageDetections) -> ImageDetections:
    """Returns the image with its detections by class, then falling score, as NumPy arrays."""
    labels, scores = np.asarray(image.labels), np.asarray(image.scores, np.float64)
    order = np.lexsort((-scores, labels))  # stable
    return ImageDetections(
        int(image.image_id),
        np.asarray(image.boxes)[order],
        scores[order],
        labels[order],
        *(np.asarray(array) for array in image[4:8]),
        masks=None if image.masks is None else [image.masks[i] for i in order],
        gt_masks=image.gt_masks,
        hw=image.hw,
    )


def concatenate(images: Sequence[DetectionMatches]) -> DetectionMatches:
    """Returns the matches of several images, one after the other."""
    fields = zip(_NOTHING, *images, strict=True)
    return DetectionMatches(
        *(np.concatenate(arrays, dtype=arrays[0].dtype, casting="same_kind") for arrays in fields)
    )


def to_json(matches: DetectionMatches) -> dict[str, Any]:
    """Returns the matches as JSON types, to be sent to another process."""
    return {
        name: np.packbits(array).tobytes().hex() if array.dtype == bool else array.tolist()
        for name, array in matches._asdict().items()
    }


def from_json(fields: Mapping[str, Any]) -> DetectionMatches:
    """Returns the matches that `to_json` turned into JSON types."""
    rows = {"gt": len(fields["gt_label"]), "of": len(fields["label"])}
    arrays = {}
    for name, like in _NOTHING._asdict().items():
        shape = (rows["gt" if name.startswith("gt_") else "of"], *like.shape[1:])
        if like.dtype == bool:
            packed = np.frombuffer(bytes.fromhex(fields[name]), np.uint8)
            arrays[name] = np.unpackbits(packed, count=np.prod(shape)).astype(bool).reshape(shape)
        else:
            arrays[name] = np.array(fields[name], like.dtype)
    return DetectionMatches(**arrays)
