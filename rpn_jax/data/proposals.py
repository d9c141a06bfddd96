"""Stored proposals: the boxes that a file has for each image of a split.

The file is a JSON list of results in COCO's format, of this project's `propose` or of anybody, or
the .npz that `propose --split --format=npz` writes, which is smaller and is read in less time:
`image_ids` (N,), `file_names` (N,), `counts` (N,) of the boxes of each image, and for all images
one after another `boxes` (M, 4) and `scores` (M,). `pixels` is the split's `Dataset.pixels`, which
tells its images from others of the same names; "" where it is not known.
"""

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rpn_jax.data.annotations.fields import FieldError, identifier, number, shown
from rpn_jax.errors import UserError, first_line

_REMEDY = "write it again with rpn-jax propose --split, or give a JSON list of COCO's results"
_LARGEST = float(np.finfo(np.float32).max)  # of a score
_TOLERANCE = 1.0  # pixels by which a box may reach over the border, from rounding


class Image(NamedTuple):
    """An image of a split, as its proposals name it."""

    id: int | str
    filename: str
    height: int
    width: int


class StoredProposals(NamedTuple):
    """The proposals of the N images of a split, one image after another.

    Fields:
      boxes: x1, y1, x2, y2 in pixels of the original image, clipped to it, best score first.
      scores: of the boxes.
      starts: of each image in `boxes`, and the end of the last.
      digest: SHA-256 of the file.
    """

    boxes: Float[np.ndarray, "M 4"]
    scores: Float[np.ndarray, " M"]
    starts: Int[np.ndarray, " N1"]
    digest: str

    @property
    def most(self) -> int:
        """The largest number of an image's proposals, at least 1."""
        return max(1, int(np.diff(self.starts).max(initial=0)))

    def of(self, index: int) -> tuple[Float[np.ndarray, "P 4"], Float[np.ndarray, " P"]]:
        """Returns the boxes and scores of an image of the split."""
        rows = slice(self.starts[index], self.starts[index + 1])
        return self.boxes[rows], self.scores[rows]


class _Rows(NamedTuple):
    """What a file says: for each box its image, and for each image that is named its file."""

    image: Int[np.ndarray, " M"]  # index into ids
    boxes: Float[np.ndarray, "M 4"]
    scores: Float[np.ndarray, " M"]
    ids: Sequence[Any]
    file_names: Mapping[int, str]  # by index into ids, as far as the file has them
    pixels: str = ""  # of the images, as far as the file has it


def read_proposals(
    path: str | os.PathLike,
    images: Sequence[Image],
    top_n: int,
    split: str = "the split",
    pixels: str | None = None,
) -> StoredProposals:
    """Returns the `top_n` best proposals that a file has for each of `images`.

    Boxes without area are left out. `pixels` is the hash of the images, None if it is not known.

    Raises:
      UserError: the file cannot be read, has proposals of other images, or none for one of these.
    """
    path = pathlib.Path(path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read as proposals ({error.strerror}); give the file that rpn-jax "
            "propose --split wrote"
        ) from error
    rows = (rows_of_npz if path.suffix == ".npz" else _rows_of_json)(path, content)
    image = _matched(path, rows, images, split)[rows.image]
    if pixels and rows.pixels and pixels != rows.pixels:
        raise UserError(
            f"{path}: its images have the names of those of {split}, but other pixels or another "
            f"order; {_remedy(split)}"
        )
    sides = np.array([[i.width, i.height] * 2 for i in images], np.float64)[image]
    _check_inside(path, rows.boxes, sides, image, images)
    boxes = np.clip(rows.boxes, 0, sides)
    order = np.lexsort((-rows.scores, image))  # stable: of equal scores the first comes first
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(axis=1)]
    image = image[order]
    rank = np.arange(len(order)) - np.searchsorted(image, image)
    order, image = order[rank < top_n], image[rank < top_n]
    starts = np.searchsorted(image, np.arange(len(images) + 1))
    digest = hashlib.sha256(content).hexdigest()
    return StoredProposals(
        boxes[order].astype(np.float32), rows.scores[order].astype(np.float32), starts, digest
    )


def _rows_of_json(path: pathlib.Path, content: bytes) -> _Rows:
    try:
        entries = json.loads(content)
    except (RecursionError, ValueError) as error:
        raise UserError(
            f"{path}: is damaged, not readable as JSON ({first_line(error)}); {_REMEDY}"
        ) from error
    if not isinstance(entries, list):
        raise UserError(
            f"{path}: is no list of results in COCO's format, which have image_id, bbox and score; "
            f"{_REMEDY}"
        )
    try:
        ids = [entry["image_id"] for entry in entries]
        xywh = np.array([entry["bbox"] for entry in entries], np.float64).reshape(len(ids), 4)
        scores = np.array([entry["score"] for entry in entries], np.float64).reshape(len(ids))
        place_of: dict[Hashable, int] = {}
        image = np.array([place_of.setdefault(i, len(place_of)) for i in ids], np.int64)
        known = np.isfinite(xywh).all() and (np.abs(scores) <= _LARGEST).all()
        if not known or (xywh[:, 2:] < 0).any():
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: {_first_bad(entries)}") from error
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    named = {
        int(place): str(entry["file_name"])
        for place, entry in zip(image[::-1].tolist(), reversed(entries), strict=True)
        if "file_name" in entry
    }
    return _Rows(image, boxes, scores, list(place_of), named)


def _first_bad(entries: Sequence[Any]) -> str:
    """Returns what is wrong with the first entry of which anything is."""
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise FieldError(f"{shown(entry)} is no object with fields")
            for name in ("image_id", "bbox", "score"):
                if name not in entry:
                    raise FieldError(f"has no {name}")
            identifier(entry["image_id"])
            if abs(number(entry["score"])) > _LARGEST:
                raise FieldError(f"score={shown(entry['score'])} is too large for a float32")
            if not isinstance(entry["bbox"], list) or len(entry["bbox"]) != 4:
                raise FieldError(f"bbox={shown(entry['bbox'])} is not [x, y, width, height]")
            if min(list(map(number, entry["bbox"]))[2:]) < 0:
                raise FieldError(f"bbox={shown(entry['bbox'])} has a negative width or height")
        except FieldError as error:
            return f"[{i}]: {error}; mend the entry"
    return f"is no list of results in COCO's format; {_REMEDY}"


def rows_of_npz(path: pathlib.Path, content: bytes) -> _Rows:
    """Returns what an .npz says; raises a `UserError` if it is damaged."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            ids, counts = file["image_ids"].tolist(), file["counts"]
            boxes = file["boxes"].astype(np.float64).reshape(-1, 4)
            scores = file["scores"].astype(np.float64).reshape(len(boxes))
            image = np.repeat(np.arange(len(ids)), counts)
            finite = np.isfinite(boxes).all(axis=1) & (np.abs(scores) <= _LARGEST)
            if len(image) != len(boxes):
                raise FieldError("its arrays do not fit each other")
            for wrong, what in (
                (~finite, "that is no number, or has a score that is none"),
                ((boxes[:, 2:] < boxes[:, :2]).any(axis=1), "of a negative width or height"),
            ):
                if wrong.any():
                    raise FieldError(f"image {ids[image[wrong.argmax()]]} has a box {what}")
            named = dict(enumerate(map(str, file["file_names"].tolist())))
            pixels = str(file["pixels"]) if "pixels" in file else ""
    except Exception as error:  # damaged archives may raise anything
        why = f" ({error})" if isinstance(error, FieldError) else ""
        raise UserError(
            f"{path}: is damaged, or is not what rpn-jax propose --split --format=npz writes{why}; "
            f"{_REMEDY}"
        ) from error
    return _Rows(image, boxes, scores, ids, named, pixels)


def _matched(
    path: pathlib.Path, rows: _Rows, images: Sequence[Image], split: str
) -> Int[np.ndarray, " K"]:
    """Returns the index among `images` of each image that a file names.

    Raises:
      UserError: they are not the same images.
    """
    index_of = {image.id: index for index, image in enumerate(images)}
    remedy = _remedy(split)
    found = []
    for place, image_id in enumerate(rows.ids):
        try:
            index = index_of.get(identifier(image_id))
        except FieldError as error:
            raise UserError(f"{path}: image_id={error}") from error
        if index is None:
            raise UserError(
                f"{path}: has proposals of image {shown(image_id)}, which {split} has not; {remedy}"
            )
        ours, theirs = images[index].filename, rows.file_names.get(place)
        if theirs is not None and os.path.basename(theirs) != os.path.basename(ours):
            raise UserError(
                f"{path}: image {shown(image_id)} is {theirs} there, but {ours} in {split}; "
                f"{remedy}"
            )
        found.append(index)
    missing = sorted(set(range(len(images))) - set(found))
    if missing:
        image = images[missing[0]]
        raise UserError(
            f"{path}: has no proposals of {len(missing)} of the {len(images)} images of {split}, "
            f"such as {shown(image.id)} ({image.filename}); {remedy}, in an .npz also of images "
            "without any"
        )
    return np.array(found, np.int64)


def _remedy(split: str) -> str:
    return f"give those of {split}: rpn-jax propose --split writes them"


def _check_inside(
    path: pathlib.Path,
    boxes: Float[np.ndarray, "M 4"],
    sides: Float[np.ndarray, "M 4"],
    image: Int[np.ndarray, " M"],
    images: Sequence[Image],
) -> None:
    """Raises a `UserError` unless all boxes are in pixels of their images."""
    outside = ((boxes < -_TOLERANCE) | (boxes > sides + _TOLERANCE)).any(axis=1)
    fractions = len(boxes) and np.abs(boxes).max() <= 1
    if not outside.any() and not fractions:
        return
    row = int(outside.argmax())
    of, box = images[image[row]], [round(side, 2) for side in boxes[row].tolist()]
    raise UserError(
        f"{path}: the box {box} (x1, y1, x2, y2) of image {shown(of.id)} is not in pixels of its "
        f"{of.width}x{of.height}; give proposals of these images, in their original size"
    )
