"""The proposal that found each object: the data behind every recall.

`evaluate` writes these arrays to `objects.npz`. They give the recall of any number of proposals, by
class, size or aspect ratio; the best and worst images; and, by resampling the images, whether two
runs differ by more than the choice of images.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt16

from rpn_jax.errors import UserError
from rpn_jax.evaluation.matching import IOU_THRESHOLDS, match_ranks, pairwise_iou
from rpn_jax.evaluation.recall import ImageProposals
from rpn_jax.files import regular
from rpn_jax.typing import Array

NOT_FOUND = np.iinfo(np.uint16).max


class ObjectRanks(NamedTuple):
    """The O objects of a split, without difficult and crowd ones, in the split's order.

    `rank[o, t]` is the rank (0 = best score) of the proposal that COCO matches to object o at
    `IOU_THRESHOLDS[t]`; `NOT_FOUND` without a match. `found_box` is the proposal at the lowest
    threshold, 0.5; NaN without a match. Boxes and areas are in original pixels. The last three
    fields cover all I images, also those without objects.
    """

    image_index: Int[Array, " O"]
    class_index: Int[Array, " O"]
    box: Float[Array, "O 4"]
    area: Float[Array, " O"]
    rank: UInt16[Array, "O T"]
    found_box: Float[Array, "O 4"]
    image_id: Int[Array, " I"]
    num_objects: Int[Array, " I"]
    num_proposals: Int[Array, " I"]

    def recall(self, top_n: int) -> Float[np.ndarray, " T"]:
        """Returns the recall of the best `top_n` proposals by threshold; NaN without objects."""
        return found(self, top_n).sum(axis=0) / (len(self.rank) or np.nan)

    def average_recall(self, top_n: int) -> float:
        """Returns AR@top_n, as `RecallResult.average_recall` does."""
        return float(self.recall(top_n).mean())


_NO_IMAGE = ObjectRanks(
    image_index=np.zeros(0, np.int32),
    class_index=np.zeros(0, np.int16),
    box=np.zeros((0, 4), np.float32),
    area=np.zeros(0, np.float32),
    rank=np.zeros((0, len(IOU_THRESHOLDS)), np.uint16),
    found_box=np.zeros((0, 4), np.float32),
    image_id=np.zeros(0, np.int64),
    num_objects=np.zeros(0, np.int32),
    num_proposals=np.zeros(0, np.int32),
)


def found(objects: ObjectRanks, top_n: int) -> np.ndarray:
    """Returns (O, T): True where the best `top_n` proposals find the object at the threshold."""
    return (objects.rank < top_n) & (objects.rank != NOT_FOUND)


def image_objects(
    image_index: int, image: ImageProposals, class_index: Int[Array, " G"], top_n: int
) -> ObjectRanks:
    """Returns the ranks of one image's objects among its best `top_n` proposals (below 65535)."""
    order = np.argsort(-image.scores, kind="stable")[:top_n]
    counts = ~np.asarray(image.gt_ignore)
    gt_boxes = np.asarray(image.gt_boxes)[counts]
    boxes = np.asarray(image.boxes)[order]
    everything = np.ones((1, len(gt_boxes)), bool)
    rank = match_ranks(pairwise_iou(boxes, gt_boxes), everything)[0].T
    rank = np.minimum(rank, NOT_FOUND)
    is_found = rank[:, 0] != NOT_FOUND
    found_box = np.full((len(gt_boxes), 4), np.nan)
    found_box[is_found] = boxes[rank[is_found, 0]]
    arrays = ObjectRanks(
        np.full(len(gt_boxes), image_index),
        np.asarray(class_index)[counts],
        gt_boxes,
        np.asarray(image.gt_areas)[counts],
        rank,
        found_box,
        np.array([image.image_id]),
        np.array([len(gt_boxes)]),
        np.array([len(order)]),
    )
    return ObjectRanks(*(a.astype(b.dtype) for a, b in zip(arrays, _NO_IMAGE, strict=True)))


def concatenate(images: Sequence[ObjectRanks]) -> ObjectRanks:
    """Returns the objects of several images, one after the other."""
    return ObjectRanks(*(np.concatenate(a) for a in zip(_NO_IMAGE, *images, strict=True)))


def to_lists(objects: ObjectRanks) -> list[list]:
    """Returns the arrays as JSON types, to be sent to another process."""
    return [array.tolist() for array in objects]


def from_lists(arrays: Sequence[list]) -> ObjectRanks:
    """Returns the objects that `to_lists` turned into lists."""
    pairs = zip(arrays, _NO_IMAGE, strict=True)
    return ObjectRanks(*(np.array(a, b.dtype).reshape(-1, *b.shape[1:]) for a, b in pairs))


def read_objects(path: pathlib.Path) -> tuple[ObjectRanks, tuple[str, ...]]:
    """Returns the objects of a split, and the names of their classes, from an `objects.npz`.

    Raises:
        UserError: there is no such file, or it is damaged or of another version.
    """
    regular(path)
    try:
        with np.load(path) as arrays:
            names = tuple(arrays["class_names"].astype(str).tolist())
            objects = ObjectRanks(*(arrays[field] for field in ObjectRanks._fields))
        _check(objects, len(names))
        return objects, names
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; evaluate the run (again)") from error
    except Exception as error:  # errors of zipfile and zlib, a missing array
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); evaluate the run again"
        ) from error


def _check(objects: ObjectRanks, classes: int) -> None:
    """Raises a `ValueError` if the arrays do not belong together."""
    images = len(objects.image_id)
    for field, array, like in zip(ObjectRanks._fields, objects, _NO_IMAGE, strict=True):
        of_images = field in ("image_id", "num_objects", "num_proposals")
        shape = (images if of_images else len(objects.rank), *like.shape[1:])
        if array.dtype.kind != like.dtype.kind or array.shape != shape:
            raise ValueError(f"{field} of another type or shape")
    for index, count in ((objects.image_index, images), (objects.class_index, classes)):
        if len(index) and not 0 <= index.min() <= index.max() < count:
            raise ValueError("an object of no image, or of no class")
