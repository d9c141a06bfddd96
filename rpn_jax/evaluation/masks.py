"""Masks of detections: pasted into the image.

    M  rows and columns of a predicted mask       H, W  of the image

A pixel's value is a bilinear sample of its detection's mask. A sample is the product of one along
each axis, so that the pasted mask is a product of three small matrices.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float

from rpn_jax.data.masks import encode
from rpn_jax.typing import Array


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
    cells = len(mask)

    def along(start, end, extent):
        if not end > start:
            return slice(0, 0), np.zeros((0, cells))
        margin = (end - start) / (2 * cells)
        ends = np.clip([np.floor(start - margin), np.ceil(end + margin)], 0, extent)
        pixels = slice(*ends.astype(int))
        centres = np.arange(pixels.start, pixels.stop) + 0.5
        return pixels, _parts((centres - start) * (cells / (end - start)) - 0.5, cells)

    x1, y1, x2, y2 = np.asarray(box, np.float64)
    return _pasted(mask, along(y1, y2, height), along(x1, x2, width), height, width) >= threshold


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
    cells = len(mask) + 2
    x1, y1, x2, y2 = _grown(np.asarray(box, np.float32), np.float32(cells / len(mask)))

    def along(first, last, extent):
        count = max(last - first + 1, 1)
        pixels = slice(*np.clip([first, last + 1], 0, extent))
        index = np.arange(pixels.start, pixels.stop) - first
        return pixels, _parts(np.clip((index + 0.5) * (cells / count) - 0.5, 0, cells - 1), cells)

    mask = np.pad(mask, 1)
    return _pasted(mask, along(y1, y2, height), along(x1, x2, width), height, width) > threshold


# The ways of pasting by the name in a config's `mask.pasting`.
PASTINGS: Mapping[str, Callable[..., np.ndarray]] = {
    "continuous": paste_mask,
    "torchvision": paste_mask_as_torchvision,
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
        pasting: a name of `PASTINGS`.
        threshold: see there.
    """
    paste = PASTINGS[pasting]
    pairs = zip(np.asarray(masks), np.asarray(boxes), strict=True)
    return [encode(paste(mask, box, *hw, threshold)) for mask, box in pairs]


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
    """
    paste, pairs = PASTINGS[pasting], zip(np.asarray(masks), np.asarray(boxes), strict=True)
    pasted = np.zeros((len(boxes), height, width), bool)
    for i, (mask, box) in enumerate(pairs):
        pasted[i] = paste(mask, box, height, width, threshold)
    return pasted


def _grown(box: np.ndarray, factor: np.float32) -> list[int]:
    """Returns a box that has grown round its centre, its corners cut off to whole pixels."""
    centre, half = (box[2:] + box[:2]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    half = half * factor
    return np.concatenate([centre - half, centre + half]).astype(np.int64).tolist()


def _parts(places: np.ndarray, cells: int) -> np.ndarray:
    """Returns the part (n, cells) of each cell in a linear sample at each place, in cells.

    The centre of the first cell is at 0. Outside of the cells there are zeros.
    """
    return np.maximum(1 - np.abs(places[:, None] - np.arange(cells)), 0)


def _pasted(mask: Array, rows: tuple, columns: tuple, height: int, width: int) -> np.ndarray:
    """Returns the samples in the image, 0 elsewhere; of each axis the pixels, and their parts."""
    image = np.zeros((height, width), np.float32)
    image[rows[0], columns[0]] = rows[1] @ np.asarray(mask, np.float64) @ columns[1].T
    return image
