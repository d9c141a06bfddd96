"""What an annotation source (VOC folder, COCO JSON, generator) hands over to be prepared."""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.data.annotations.segmentations import Mask
from rpn_jax.data.images import Header, decode_image, read_header
from rpn_jax.data.masks import area, extent
from rpn_jax.errors import UserError

_NEAR = 2.0  # pixels; sides of a mask and of its box that differ by less are the same
_DARK = 16  # an image without a pixel as bright as that is black to the eye


class Finding(NamedTuple):
    """Something about a file that a person should know."""

    file: str
    what: str

    @classmethod
    def of(cls, error: UserError) -> "Finding":
        """Returns the two halves of an error's `file: what is wrong`."""
        file, _, what = str(error).partition(": ")
        return cls(file, what)


class Example(NamedTuple):
    """One image and what was annotated in it, as the source has it: nothing is checked yet.

    Boxes are x1, y1, x2, y2 in continuous pixels; one that could not be read is NaN. `areas` are
    None where they are the boxes' own; one that is NaN is the mask's, or the box's without a mask.
    `declared_hw` is the size that the annotation states. `origins` name the entry that each box
    comes from, for messages; `original_id` is the image's id in the source, where that is no
    number. `read_masks`, of the height and width of the boxes' pixels, returns the mask of each
    box; it is None for a source without masks. `masks` are those, checked, see
    `rpn_jax.data.masks`.
    """

    image: bytes
    filename: str
    image_id: int
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    ignore: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"] | None
    declared_hw: tuple[int, int] | None
    origins: Sequence[Finding] = ()
    original_id: int | str | None = None
    read_masks: Callable[[int, int], Sequence[Mask]] | None = None
    masks: Sequence[bytes] | None = None


def present_classes(example: Any) -> list[int]:
    """Returns the labels that an image's objects have, each once; ignore regions do not count."""
    return np.unique(example.labels[~example.ignore]).tolist()


class Source(NamedTuple):
    """An annotated set of images: for each split, one function per image that reads it.

    The function raises UserError where the image cannot be used. `digest` changes when the
    annotations do. By split, `left_out` are annotations that could not be used, though their
    images can, and `noted` is what a person should know. `category_ids` are the source's own ids
    of its classes, in the order of the labels. `has_masks` tells whether its examples may have any.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Callable[[], Example]]]
    digest: str
    left_out: Mapping[str, Sequence[Finding]] = types.MappingProxyType({})
    noted: Mapping[str, Sequence[Finding]] = types.MappingProxyType({})
    category_ids: tuple[int | str, ...] = ()
    has_masks: bool = False


class Frame(NamedTuple):
    """The pixels that an image's boxes are in, and how they come from what OpenCV decodes.

    `meant` is "shown" or "stored", and `known_by` says by what: the "size" in the annotation, the
    "option" `orientation`, or the "default". Both are empty for an image without an orientation.
    """

    height: int
    width: int
    turn: int = 1
    orientation: int = 1
    meant: str = ""
    known_by: str = ""


class CheckedExample(NamedTuple):
    """An example whose image decodes and whose boxes lie inside it, with what had to be changed.

    `noted` is what a person should know of the image itself, and of masks; nothing was changed for
    it. `masks_left_out` are those that cannot be used, though their boxes can.
    """

    example: Example
    height: int
    width: int
    clipped: list[Finding]
    dropped: list[Finding]
    noted: Sequence[Finding] = ()
    frame: Frame | None = None
    masks_left_out: Sequence[Finding] = ()


def check_example(
    example: Example, *, skip_bad: bool, orientation: str | None = None
) -> CheckedExample:
    """Returns the example if its image decodes and is what was annotated; see `check_boxes`.

    Raises:
      UserError: the image does not decode or is not of the size that its annotation states.
    """
    try:
        example.filename.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{example.filename!r}: the name is not UTF-8; rename the file") from error
    frame = find_frame(example, orientation)
    image = decode_image(example.image, example.filename, frame.turn)
    if image.shape[:2] != (frame.height, frame.width):
        raise UserError(f"{example.filename}: its header and its pixels differ in size")
    noted = []
    if frame.orientation != 1:
        noted.append(
            Finding(
                example.filename,
                f"EXIF orientation {frame.orientation}, boxes in the pixels {frame.meant} "
                f"(known by the {frame.known_by})",
            )
        )
    if image.max() < _DARK:
        noted.append(
            Finding(
                example.filename,
                f"no pixel is brighter than {image.max()} of 255; stretch 12-bit data in 16-bit "
                "files beforehand",
            )
        )
    checked = check_boxes(example, frame.height, frame.width, skip_bad=skip_bad)
    return checked._replace(frame=frame, noted=[*noted, *checked.noted])


def find_frame(example: Example, orientation: str | None = None) -> Frame:
    """Returns which pixels an example's boxes are in, by the image's header.

    Where the image has an EXIF orientation, that is told by the size that the annotation states;
    where both sizes fit, or none is stated, by `orientation`, which is "shown" by default.

    Raises:
      UserError: the image has no size that its annotation is for.
    """
    header = read_header(example.image, example.filename)
    sizes = {"shown": header.shown_hw(), "stored": (header.height, header.width)}
    fitting = [meant for meant, hw in sizes.items() if _fits(example.declared_hw, hw)]
    if not fitting:
        raise UserError(_wrong_size(example, header))
    if header.orientation == 1:
        return Frame(header.height, header.width)
    if len(fitting) == 1:
        meant, known_by = fitting[0], "size"
    else:
        meant, known_by = orientation or "shown", "option" if orientation else "default"
    turn = header.shown_turn if meant == "shown" else header.stored_turn
    return Frame(*sizes[meant], turn, header.orientation, meant, known_by)


def _fits(declared: tuple[int, int] | None, hw: tuple[int, int]) -> bool:
    # One pixel is rounding in a tool that made the files; more means other pixels.
    return not declared or max(abs(declared[0] - hw[0]), abs(declared[1] - hw[1])) <= 1


def _wrong_size(example: Example, header: Header) -> str:
    declared, turned = example.declared_hw, ""
    if header.orientation != 1:
        height, width = header.shown_hw()
        turned = f", or {width}x{height} turned by its EXIF orientation {header.orientation}"
    return (
        f"{example.filename}: the annotation is for {declared[1]}x{declared[0]} pixels, "
        f"the image has {header.width}x{header.height}{turned}"
    )


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
        file, box = _origin(example, i)
        if not finite[i]:
            message = f"{box} has a coordinate that is missing or not a finite number"
            if not skip_bad:
                raise UserError(f"{file}: {message}")
            dropped.append(Finding(file, message))
        elif not has_area[i]:
            dropped.append(Finding(file, f"{box} has no area"))
        elif not visible[i]:
            dropped.append(Finding(file, f"{box} is outside the {width}x{height} image"))
        elif moved[i]:
            clipped.append(Finding(file, f"{box} clipped to {width}x{height}"))
    keep = finite & has_area & visible
    inside = inside[keep].astype(np.float32)
    areas = np.prod(inside[:, 2:] - inside[:, :2], axis=1)
    if example.areas is not None:
        given = np.minimum(example.areas, np.finfo(np.float32).max)[keep]
        areas = np.where(np.isfinite(given), given, areas)
    kept = example._replace(
        boxes=inside,
        labels=np.asarray(example.labels, np.int64)[keep],
        ignore=np.asarray(example.ignore, bool)[keep],
        areas=areas.astype(np.float32),
        read_masks=None,
    )
    checked = CheckedExample(kept, height, width, clipped, dropped)
    return _with_masks(checked, example, np.flatnonzero(keep).tolist())


def _with_masks(checked: CheckedExample, example: Example, kept: Sequence[int]) -> CheckedExample:
    """Returns the checked example with the masks of the boxes that it has kept.

    A mask that cannot be used leaves its object as it is, without one.
    """
    if example.read_masks is None:
        return checked
    hw = checked.height, checked.width
    try:
        read = example.read_masks(*hw)
    except UserError as error:
        masks = [b""] * len(kept)
        example = checked.example._replace(masks=masks)
        return checked._replace(example=example, masks_left_out=[Finding.of(error)])
    masks, left_out, noted = [], [], []
    areas = checked.example.areas.copy()
    for place, (box, i) in enumerate(zip(checked.example.boxes, kept, strict=True)):
        mask = _beside_its_box(read[i], box, *hw)
        file, what = _origin(example, i)
        if mask.problem:
            left_out.append(Finding(file, f"{what} mask {mask.problem}"))
        if mask.note:
            noted.append(Finding(file, f"{what} mask {mask.note}"))
        masks.append(mask.counts)
        if mask.counts and example.areas is not None and not np.isfinite(example.areas[i]):
            areas[place] = area(mask.counts, *hw)
    return checked._replace(
        example=checked.example._replace(masks=masks, areas=areas),
        masks_left_out=left_out,
        noted=noted,
    )


def _beside_its_box(mask: Mask, box: Float[np.ndarray, "4"], height: int, width: int) -> Mask:
    """Returns a mask, or what there is to say of it where it lies apart from its box."""
    if not mask.counts:
        return mask
    own = extent(mask.counts, height, width)
    if not own.any():
        return Mask(b"", f"covers no pixel of the {width}x{height} image")
    sides = np.minimum(own[2:], box[2:]) - np.maximum(own[:2], box[:2])
    if (sides > 0).all():
        shared = np.prod(sides)
        union = np.prod(own[2:] - own[:2]) + np.prod(box[2:] - box[:2]) - shared
        if 2 * shared >= union or np.abs(own - box).max() <= _NEAR:
            return mask
        return mask._replace(note=f"and box are apart: it lies in {_shown(own)}")
    return Mask(b"", f"lies in {_shown(own)}, outside of the box")


def _shown(box: Float[np.ndarray, "4"]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"


def _origin(example: Example, i: int) -> Finding:
    """Returns the file that a box comes from, and what the box is called there."""
    if example.origins:
        return example.origins[i]
    box = ", ".join(f"{value:g}" for value in example.boxes[i])
    return Finding(example.filename, f"box {i + 1} ({box})")


def read_checked(
    reader: Callable[[], Example], *, skip_bad: bool, orientation: str | None = None
) -> CheckedExample | Finding:
    """Returns the checked example; one that is unusable raises, or is a finding with `skip_bad`."""
    try:
        try:
            return check_example(reader(), skip_bad=skip_bad, orientation=orientation)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except UserError as error:
        if skip_bad:
            return Finding.of(error)
        raise UserError(
            f"{error}; mend or remove it, or leave such files out with --skip-bad"
        ) from error
