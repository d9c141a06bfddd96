"""What an annotation source (VOC folder, COCO JSON, generator) hands over to be prepared."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.data.transforms import decode_image
from rpn_jax.errors import UserError


class Example(NamedTuple):
    """One image and what was annotated in it, as the source has it: nothing is checked yet.

    Boxes are x1, y1, x2, y2 in continuous pixels; one that could not be read is NaN. `areas` are
    None where they are the boxes' own. `declared_hw` is the size that the annotation states.
    """

    image: bytes
    filename: str
    image_id: int
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    ignore: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"] | None
    declared_hw: tuple[int, int] | None


class Source(NamedTuple):
    """An annotated set of images: for each split, one function per image that reads it.

    The function raises UserError where the image cannot be used. `digest` changes when the
    annotations do.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Callable[[], Example]]]
    digest: str


class Finding(NamedTuple):
    """Something about a file that a person should know."""

    file: str
    what: str

    @classmethod
    def of(cls, error: UserError) -> "Finding":
        """Returns the two halves of an error's `file: what is wrong`."""
        file, _, what = str(error).partition(": ")
        return cls(file, what)


class CheckedExample(NamedTuple):
    """An example whose image decodes and whose boxes lie inside it, with what had to be changed."""

    example: Example
    height: int
    width: int
    clipped: list[Finding]
    dropped: list[Finding]


def check_example(example: Example, *, skip_bad: bool) -> CheckedExample:
    """Returns the example if its image decodes and is what was annotated; see `check_boxes`.

    Raises:
      UserError: the image does not decode or is not of the size that its annotation states.
    """
    height, width = decode_image(example.image, example.filename).shape[:2]
    declared = example.declared_hw
    # One pixel is rounding in a tool that made the files; more means other pixels.
    if declared and max(abs(declared[0] - height), abs(declared[1] - width)) > 1:
        raise UserError(
            f"{example.filename}: the annotation is for {declared[1]}x{declared[0]} pixels, "
            f"the image has {width}x{height}"
        )
    return check_boxes(example, height, width, skip_bad=skip_bad)


def check_boxes(
    example: Example, height: int, width: int, *, skip_bad: bool = False
) -> CheckedExample:
    """Returns the example with only boxes that can be trained on, and the list of changes.

    A box that reaches over the border is clipped. A box without area, or wholly outside, is
    dropped: public data has them. A box that is not made of numbers means that the file is broken.

    Raises:
      UserError: a box has a coordinate that is not a finite number (with `skip_bad` such a box is
        dropped instead).
    """
    boxes = np.asarray(example.boxes, np.float64).reshape(-1, 4)
    border = np.array([[width, height, width, height]], np.float64)
    inside = np.clip(boxes, 0, border)
    finite = np.isfinite(boxes).all(axis=1)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    visible = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    # Decimals written by annotation tools overshoot by less than this; no news.
    moved = (np.abs(inside - boxes) > 0.05).any(axis=1)

    clipped, dropped = [], []
    for i in range(len(boxes)):
        box = f"box {i + 1} ({', '.join(f'{v:g}' for v in boxes[i])})"
        if not finite[i]:
            message = f"{box} has a coordinate that is missing or not a finite number"
            if not skip_bad:
                raise UserError(f"{example.filename}: {message}")
            dropped.append(Finding(example.filename, message))
        elif not has_area[i]:
            dropped.append(Finding(example.filename, f"{box} has no area"))
        elif not visible[i]:
            dropped.append(
                Finding(example.filename, f"{box} is outside the {width}x{height} image")
            )
        elif moved[i]:
            clipped.append(Finding(example.filename, f"{box} clipped to {width}x{height}"))
    keep = finite & has_area & visible
    inside = inside[keep].astype(np.float32)
    areas = np.prod(inside[:, 2:] - inside[:, :2], axis=1)
    if example.areas is not None:
        given = np.asarray(example.areas, np.float32)[keep]
        areas = np.where(np.isfinite(given), given, areas)
    kept = example._replace(
        boxes=inside,
        labels=np.asarray(example.labels, np.int64)[keep],
        ignore=np.asarray(example.ignore, bool)[keep],
        areas=areas.astype(np.float32),
    )
    return CheckedExample(kept, height, width, clipped, dropped)


def read_checked(reader: Callable[[], Example], *, skip_bad: bool) -> CheckedExample | Finding:
    """Returns the checked example; one that is unusable raises, or is a finding with `skip_bad`."""
    try:
        try:
            return check_example(reader(), skip_bad=skip_bad)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except UserError as error:
        if skip_bad:
            return Finding.of(error)
        raise UserError(
            f"{error}; mend or remove it, or leave such files out with --skip-bad"
        ) from error
