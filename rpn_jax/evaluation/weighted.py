"""Average precision where an image counts several times, or not at all: for resampled images.

Axes: D  detections    O  objects    C  classes    T  IoU thresholds    I  images    B  resamples
"""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.errors import UserError
from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.files import regular
from rpn_jax.typing import Array

RECALL_POINTS = np.linspace(0, 1, 101)  # of a precision curve, as pycocotools spells them


class SplitMatches(NamedTuple):
    """COCO's matches of a split, for objects of all sizes: what `evaluate` keeps of detections.

    The detections of a class, equal scores first by image id, keep their order where scores are
    equal. `image_id` is that of a detection, `object_image_id` that of an object. For `hit` and
    `ignored` see `DetectionMatches`.
    """

    label: Int[Array, " D"]
    score: Float[Array, " D"]
    image_id: Int[Array, " D"]
    hit: Bool[Array, "D T"]
    ignored: Bool[Array, "D T"]
    object_label: Int[Array, " O"]
    object_image_id: Int[Array, " O"]

    def precision(
        self, image_id: Int[np.ndarray, " I"], times: Int[np.ndarray, "B I"]
    ) -> Float[np.ndarray, "B T"]:
        """Returns the average precision if image i counts `times[b, i]` times; NaN without objects.

        It is that of pycocotools for so many copies of the images, but that equal scores within an
        image and class stay together.

        Args:
            image_id: the images of the matches, and others.
            times: how often each counts.
        """
        order = np.argsort(image_id)
        image, object_image = (
            order[np.searchsorted(image_id, ids, sorter=order)]
            for ids in (self.image_id, self.object_image_id)
        )
        weights = np.ascontiguousarray(times.T, np.float32)  # (I, B), exact up to 2**24
        total, classes = np.zeros((len(IOU_THRESHOLDS), len(times))), np.zeros(len(times))
        for label in np.unique(self.object_label):
            objects = weights[object_image[self.object_label == label]].sum(axis=0)
            rows = np.flatnonzero(self.label == label)
            rows = rows[np.argsort(-self.score[rows], kind="stable")]
            of_rows = weights[image[rows]]
            seen = _running_sum(of_rows)
            total += [
                _average_precision(of_rows, seen, hit, ignored, objects)
                for hit, ignored in zip(self.hit[rows].T, self.ignored[rows].T, strict=True)
            ]
            classes += objects > 0
        return (total / np.where(classes > 0, classes, np.nan)).T


def _average_precision(
    weights: Float[np.ndarray, "D B"],
    seen: Float[np.ndarray, "D+1 B"],
    hit: Bool[np.ndarray, " D"],
    ignored: Bool[np.ndarray, " D"],
    objects: Float[np.ndarray, " B"],
) -> Float[np.ndarray, " B"]:
    """Returns the average precision of a class, 0 without objects, from its detections by score.

    `seen` is the running sum of their weights.
    """
    found, left_out = np.flatnonzero(hit & ~ignored), np.flatnonzero(ignored)
    if not len(found):
        return np.zeros(weights.shape[1])
    # Precision is a maximum over what follows, so that only the right detections need be looked at.
    not_counted = _running_sum(weights[left_out])[np.searchsorted(left_out, found)]
    counted = seen[found + 1] - not_counted
    right = weights[found].cumsum(axis=0)
    precision = right / np.maximum(counted, 1)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = right / np.maximum(objects, 1).astype(np.float64)
    points = np.searchsorted(RECALL_POINTS, recall, side="right")
    return (precision * np.diff(points, axis=0, prepend=0)).sum(axis=0) / len(RECALL_POINTS)


def _running_sum(weights: Float[np.ndarray, "n B"]) -> Float[np.ndarray, "n+1 B"]:
    return np.concatenate([np.zeros((1, weights.shape[1]), weights.dtype), weights]).cumsum(axis=0)


def read_matches(path: pathlib.Path, prefix: str = "") -> SplitMatches:
    """Returns the matches in a file of `evaluate`, of which the names begin with `prefix`.

    Raises:
        UserError: there is no such file, or it is damaged or of another version.
    """
    regular(path)
    try:
        with np.load(path) as arrays:
            matches = SplitMatches(*(arrays[f"{prefix}{field}"] for field in SplitMatches._fields))
        _check(matches)
        return matches
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; evaluate the run (again)") from error
    except Exception as error:  # errors of zipfile and zlib, a missing array
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); evaluate the run again"
        ) from error


def _check(matches: SplitMatches) -> None:
    """Raises a `ValueError` if the arrays do not belong together."""
    kinds = dict(zip(SplitMatches._fields, "ifibbii", strict=True))
    for field, array in matches._asdict().items():
        rows = len(matches.object_label if field.startswith("object") else matches.label)
        shape = (rows, len(IOU_THRESHOLDS)) if kinds[field] == "b" else (rows,)
        if array.dtype.kind != kinds[field] or array.shape != shape:
            raise ValueError(f"{field} of another type or shape")
