"""Masks of detections: pasted into the image.

    M  rows and columns of a predicted mask       H, W  of the image

A pixel's value is a bilinear sample of its detection's mask, linear along each axis in turn. Only
the pixels near the box are computed, since an image may be a hundred times as large.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rpn_jax.data.masks import encode_window
from rpn_jax.errors import UserError
from rpn_jax.typing import Array


class Window(NamedTuple):
    """The pixels of an image in which a mask can be, and whether each is."""

    inside: Bool[np.ndarray, "h w"]
    rows: slice
    columns: slice


def paste_mask(
    mask: Float[Array, "M M"],
    box: Float[Array, "4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> Bool[np.ndarray, "{height} {width}"]:
    """Returns the pixels whose centres lie in a detection's mask, by continuous coordinates.

    The mask divides the box into M x M cells, and falls to 0 within half a cell around the box. So
    does detectron2's.

    Args:
        mask: probabilities.
        box: in pixels of the image, which it may leave.
        height: H.
        width: W.
        threshold: a pixel of at least this probability belongs to the object.

    >>> paste_mask(np.float32([[0.9, 0.1], [0.9, 0.1]]), np.float32([1, 0, 3, 2]), 2, 4).astype(int)
    array([[0, 1, 0, 0],
           [0, 1, 0, 0]])
    """
    return _in_image(_window(mask, box, height, width, threshold), height, width)


def _window(mask: Array, box: Array, height: int, width: int, threshold: float) -> Window:
    """Returns what `paste_mask` finds in the pixels near the box."""
    cells = len(mask)

    def along(start, end, extent):
        if not end > start:
            return slice(0, 0), np.zeros(0)
        margin = (end - start) / (2 * cells)
        ends = np.clip([np.floor(start - margin), np.ceil(end + margin)], 0, extent)
        pixels = slice(*ends.astype(int))
        centres = np.arange(pixels.start, pixels.stop) + 0.5
        return pixels, (centres - start) * (cells / (end - start)) - 0.5

    x1, y1, x2, y2 = np.asarray(box, np.float64)
    rows, columns = along(y1, y2, height), along(x1, x2, width)
    return Window(_samples(mask, rows[1], columns[1]) >= threshold, rows[0], columns[0])


def paste_mask_as_torchvision(
    mask: Float[Array, "M M"],
    box: Float[Array, "4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> Bool[np.ndarray, "{height} {width}"]:
    """Returns the pixels that torchvision 0.28 takes for a detection's mask, as Detectron did.

    The mask gets a border of zeros, and the box grows with it; the box is then cut off to whole
    pixels, of which the last belong to it, and the mask is resized to them. A network that was
    trained on torchvision's targets, see `masks.crop_masks`, expects it.

    Args:
        mask: probabilities.
        box: in pixels of the image, which it may leave.
        height: H.
        width: W.
        threshold: a pixel of more than this probability belongs to the object.
    """
    return _in_image(_window_as_torchvision(mask, box, height, width, threshold), height, width)


def _window_as_torchvision(
    mask: Array, box: Array, height: int, width: int, threshold: float
) -> Window:
    cells = len(mask) + 2
    x1, y1, x2, y2 = _grown(np.asarray(box, np.float32), np.float32(cells / len(mask)))

    def along(first, last, extent):
        count = max(last - first + 1, 1)
        pixels = slice(*np.clip([first, last + 1], 0, extent))
        index = np.arange(pixels.start, pixels.stop) - first
        return pixels, np.clip((index + 0.5) * (cells / count) - 0.5, 0, cells - 1)

    rows, columns = along(y1, y2, height), along(x1, x2, width)
    samples = _samples(np.pad(mask, 1), rows[1], columns[1])
    return Window(samples > threshold, rows[0], columns[0])


# The ways of pasting by the name in a config's `mask.pasting`.
_PASTINGS: Mapping[str, Callable[..., Window]] = {
    "continuous": _window,
    "torchvision": _window_as_torchvision,
}


def paste_all(
    masks: Float[Array, "D M M"],
    boxes: Float[Array, "D 4"],
    hw: tuple[int, int],
    pasting: str,
    threshold: float,
) -> list[bytes]:
    """Returns the masks of an image's detections, pasted into it, as `rpn_jax.data.masks` has them.

    Args:
        masks: probabilities.
        boxes: in pixels of the image.
        hw: height and width of the image.
        pasting: a name of `_PASTINGS`.
        threshold: see there.
    """
    windows = _windows(masks, boxes, hw, pasting, threshold)
    return [encode_window(*window, *hw) for window in windows]


def paste_masks(
    masks: Float[Array, "D M M"],
    boxes: Float[Array, "D 4"],
    height: int,
    width: int,
    *,
    pasting: str = "continuous",
    threshold: float = 0.5,
) -> Bool[np.ndarray, "D {height} {width}"]:
    """Returns the masks of an image's detections, pasted into it.

    For what `export` writes. The boxes may be scaled to another size of the image before.

    Args:
        masks: probabilities.
        boxes: in pixels of the image.
        height: H.
        width: W.
        pasting: "continuous" or "torchvision", see `paste_mask` and `paste_mask_as_torchvision`.
        threshold: see there.

    >>> masks, boxes = np.full((1, 28, 28), 0.9, np.float32), np.float32([[1, 0, 3, 2]])
    >>> paste_masks(masks, boxes, 2, 4)[0].astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0]])

    Raises:
        UserError: there are not as many boxes as masks, they have other shapes or a coordinate that
            is not finite, or an option is none of these.
    """
    masks, boxes = np.asarray(masks), np.asarray(boxes)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise UserError(
            f"masks, boxes: are {masks.shape} and {boxes.shape}; give (n, M, M) and (n, 4), of one "
            "image at a time"
        )
    if not np.isfinite(boxes).all():
        raise UserError("boxes: have a coordinate that is not finite; leave those boxes out")
    for name, value in {"height": height, "width": width}.items():
        if value != int(value) or value < 1:
            raise UserError(f"{name}={value}: give a whole number of pixels, at least 1")
    if pasting not in _PASTINGS:
        raise UserError(f"pasting={pasting!r}: give one of {', '.join(_PASTINGS)}")
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold={threshold}: give a probability, from 0 to 1")
    height, width = int(height), int(width)
    pasted = np.zeros((len(boxes), height, width), bool)
    windows = _windows(masks, boxes, (height, width), pasting, threshold)
    for image, (inside, rows, columns) in zip(pasted, windows, strict=True):
        image[rows, columns] = inside
    return pasted


def _windows(
    masks: Array, boxes: Array, hw: tuple[int, int], pasting: str, threshold: float
) -> Iterator[Window]:
    paste, pairs = _PASTINGS[pasting], zip(np.asarray(masks), np.asarray(boxes), strict=True)
    return (paste(mask, box, *hw, threshold) for mask, box in pairs)


def _in_image(window: Window, height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width), bool)
    image[window.rows, window.columns] = window.inside
    return image


def _grown(box: np.ndarray, factor: np.float32) -> list[int]:
    """Returns a box that has grown round its centre, its corners cut off to whole pixels."""
    centre, half = (box[2:] + box[:2]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    half = half * factor
    return np.concatenate([centre - half, centre + half]).astype(np.int64).tolist()


def _samples(mask: Array, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the samples at places along each axis, in cells; the centre of the first is at 0.

    Outside of the cells there are zeros.
    """
    of_rows = _along(np.asarray(mask, np.float64), rows)
    return _along(of_rows.T, columns).T.astype(np.float32)


def _along(cells: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns linear samples along the first axis."""
    places = np.clip(places, -1, len(cells))
    first = np.clip(np.floor(places), -1, len(cells) - 1)
    part, first = (places - first)[:, None], first.astype(int)
    padded = np.pad(cells, ((1, 1), (0, 0)))
    return padded[first + 1] * (1 - part) + padded[first + 2] * part
