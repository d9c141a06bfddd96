"""Masks as annotation files have them: polygons, runs or a PNG, which may come from anyone.

Nothing is handed to pycocotools whose size or place is not known to be the image's: its C code
allocates what it is told to.
"""

import io
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask
from PIL import Image, UnidentifiedImageError

from rpn_jax.data import masks
from rpn_jax.data.annotations.fields import FieldError, shown
from rpn_jax.data.images import read_header, read_image
from rpn_jax.errors import UserError, first_line

_BORDER = 255  # of VOC: the pixels round objects belong to none
_POINTS = 3  # of a polygon, at least
_PNG_BITS = 24  # the place in the file of the number of bits of a sample


class Mask(NamedTuple):
    """A mask as `rpn_jax.data.masks` has them; or why there is none; and what to know of it."""

    counts: bytes
    problem: str = ""
    note: str = ""


def compact(value: Any) -> Any:
    """Returns a segmentation with polygons as arrays, which take a tenth of the memory."""
    if not isinstance(value, list):
        return value
    try:
        return [np.array(polygon, np.float64) for polygon in value]
    except (OverflowError, TypeError, ValueError):
        return value  # `read_segmentation` says what is wrong


def is_given(value: Any) -> bool:
    """Returns whether a segmentation says anything."""
    return value is not None and not (isinstance(value, list | str) and not len(value))


def read_segmentation(value: Any, height: int, width: int) -> Mask:
    """Returns the mask of a `compact` segmentation of an image of that size."""
    if not is_given(value):
        return Mask(b"")
    try:
        if isinstance(value, dict):
            return Mask(_of_runs(value, height, width))
        return _of_polygons(value, height, width)
    except FieldError as error:
        return Mask(b"", str(error))


def _of_runs(value: dict, height: int, width: int) -> bytes:
    """Returns the counts of COCO's RLE, compressed or not."""
    if value.get("size") != [height, width]:
        raise FieldError(
            f"size={shown(value.get('size'))} of its runs is not the image's height and width, "
            f"{[height, width]}"
        )
    counts = value.get("counts")
    if isinstance(counts, str) and counts.isascii():
        given = counts.encode()
        fits = masks.fills(given, height, width)
    elif isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts):
        fits = sum(counts) == height * width
        given = pycocotools.mask.frPyObjects(value, height, width)["counts"] if fits else b""
    else:
        raise FieldError(f"counts={shown(counts)} are no runs")
    if not fits:
        raise FieldError(f"counts={shown(counts)} are no runs of {height * width} pixels")
    # Runs of no pixel go: of a mask that has only such, pycocotools' box is not empty.
    return masks.encode(masks.decode(given, height, width))


def _of_polygons(value: Any, height: int, width: int) -> Mask:
    if not isinstance(value, list) or not all(
        isinstance(polygon, np.ndarray) and polygon.ndim == 1 for polygon in value
    ):
        raise FieldError("is neither a list of polygons, [[x, y, x, y, …], …], nor runs")
    for i, polygon in enumerate(value, 1):
        _check_polygon(polygon, f"polygon {i}", height, width)
    runs = pycocotools.mask.frPyObjects([polygon.tolist() for polygon in value], height, width)
    crossing = [
        f"polygon {i}"
        for i, (polygon, run) in enumerate(zip(value, runs, strict=True), 1)
        if _crosses_itself(polygon, int(pycocotools.mask.area(run)), height, width)
    ]
    whole = pycocotools.mask.merge(runs)
    if not pycocotools.mask.area(whole):
        raise FieldError(f"covers no pixel of the {width}x{height} image")
    return Mask(whole["counts"], note=f"{', '.join(crossing)} crosses itself" if crossing else "")


def _check_polygon(polygon: np.ndarray, name: str, height: int, width: int) -> None:
    """Raises a `FieldError` for what is no polygon, or would take pycocotools without end."""
    if len(polygon) % 2:
        raise FieldError(f"{name} has {len(polygon)} numbers, an odd count")
    if len(polygon) < 2 * _POINTS:
        raise FieldError(f"{name} has {len(polygon) // 2} of at least {_POINTS} points")
    if not np.isfinite(polygon).all():
        raise FieldError(f"{name} has a coordinate that is not a finite number")
    points, size = polygon.reshape(-1, 2), np.array([[width, height]])
    if ((points < -size) | (points > 2 * size)).any():
        raise FieldError(f"{name} reaches far beyond the {width}x{height} image")
    # What pycocotools allocates grows with the outline.
    steps = np.abs(np.roll(points, -1, axis=0) - points)
    if steps.max(axis=1).sum() > height * width + 4 * (height + width):
        raise FieldError(f"{name} has an outline longer than the image has pixels")


def _crosses_itself(polygon: np.ndarray, covered: int, height: int, width: int) -> bool:
    """Returns whether a polygon covers another area than its outline runs round.

    Where an outline crosses itself, it runs round one part against the clock, and round the other
    with it. Nothing is said of small ones, nor of those that the image's border cuts.
    """
    points = polygon.reshape(-1, 2)
    if (points < 0).any() or (points > np.array([[width, height]])).any():
        return False
    steps = np.roll(points, -1, axis=0) - points
    enclosed = abs(np.sum(points[:, 0] * steps[:, 1] - points[:, 1] * steps[:, 0])) / 2
    rounding = np.hypot(*steps.T).sum() / 2
    return bool(abs(covered - enclosed) > rounding + 0.2 * covered)


def read_png(
    path: pathlib.Path, numbers: Sequence[int], count: int, hw: tuple[int, int]
) -> list[Mask]:
    """Returns the masks of objects of an image of that size from VOC's `SegmentationObject`.

    Args:
      path: of a PNG whose pixels are numbers of objects, 0 for background, 255 for a border.
      numbers: of the objects.
      count: how many objects the annotation has.
      hw: height and width of the image.

    Raises:
      UserError: the file is no such PNG, is of another size, or has other objects.
    """
    data = read_image(path)
    header = read_header(data, str(path))
    if (header.height, header.width) != hw:
        raise UserError(
            f"{path}: has {header.width}x{header.height} pixels, the image {hw[1]}x{hw[0]}"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        pixels = np.asarray(image)
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is an image of another format; masks are PNGs") from error
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: not readable as a PNG ({first_line(error)})") from error
    if image.mode not in ("P", "L"):
        raise UserError(f"{path}: its pixels are {image.mode}, not the numbers of objects")
    if image.mode == "L":  # Pillow stretches samples of 2 and 4 bits to 0 to 255
        pixels = pixels // (255 // (2 ** data[_PNG_BITS] - 1))
    found = set(np.unique(pixels).tolist()) - {0, _BORDER}
    if found and max(found) > count:
        raise UserError(f"{path}: has an object {max(found)}, but the annotation only {count}")
    return [
        Mask(masks.encode(pixels == number))
        if number in found
        else Mask(b"", f"has no pixel in {path.name}")
        for number in numbers
    ]
