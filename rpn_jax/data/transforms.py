"""Flip and resize one example. Images are RGB uint8 arrays (H, W, 3)."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

_LEAST_SIDE = 8


def resized_hw(height: int, width: int, *, shorter_side: int, longer_side: int) -> tuple[int, int]:
    """Returns the size with `shorter_side` as shorter side and at most `longer_side` as longer.

    This is the rule of the paper, detectron2 and torchvision. Sizes are rounded to the nearest
    pixel, as in detectron2 (torchvision rounds down). A side is at least half a stride of 16:
    a smaller image would contain no anchor's centre.
    """
    scale = min(shorter_side / min(height, width), longer_side / max(height, width))
    return resized_by(height, width, scale, min(_LEAST_SIDE, shorter_side))


def resized_by(height: int, width: int, factor: float, least: int = _LEAST_SIDE) -> tuple[int, int]:
    """Returns both sides times `factor`, to the nearest pixel, each `least` at least."""
    return max(least, int(height * factor + 0.5)), max(least, int(width * factor + 0.5))


class View(NamedTuple):
    """What is shown of an image.

    Fields:
      resized_hw: size that the image is resized to.
      corner: first row and column of the resized image that are shown.
      image_hw: number of rows and columns that are.
      min_side: pixels; a box that is narrower or lower, as far as it is shown, goes.
    """

    resized_hw: tuple[int, int]
    corner: tuple[int, int]
    image_hw: tuple[int, int]
    min_side: float

    def keeps(self, boxes: Float[np.ndarray, "n 4"]) -> Bool[np.ndarray, " n"]:
        """Returns True for the boxes, of those that `show` returns, that are large enough."""
        return (boxes[:, 2:] - boxes[:, :2] >= self.min_side).all(axis=1)


def window(view: View, height: int, width: int) -> Float[np.ndarray, "4"]:
    """Returns the box of what `view` shows, in pixels of an image of that size."""
    rows, columns = view.image_hw
    top, left = view.corner
    resized_height, resized_width = view.resized_hw
    y1, y2 = top * height / resized_height, (top + rows) * height / resized_height
    x1, x2 = left * width / resized_width, (left + columns) * width / resized_width
    return np.array([x1, y1, x2, y2])


def whole_view(
    height: int,
    width: int,
    *,
    shorter_side: int,
    longer_side: int,
    canvas_hw: tuple[int, int] | None = None,
) -> View:
    """Returns the whole of an image of that size, see `resized_hw`.

    A canvas is chosen by an image's size in the dataset. An augmentation may have given it another
    shape since; it is resized to what the canvas holds.
    """
    new_hw = resized_hw(height, width, shorter_side=shorter_side, longer_side=longer_side)
    if canvas_hw and (new_hw[0] > canvas_hw[0] or new_hw[1] > canvas_hw[1]):
        new_hw = resized_by(height, width, min(canvas_hw[0] / height, canvas_hw[1] / width))
    return View(new_hw, (0, 0), new_hw, 0.0)


def rescale(
    boxes: Float[np.ndarray, "n 4"],
    from_hw: Sequence[int] | Shaped[np.ndarray, " 2"],
    to_hw: Sequence[int] | Shaped[np.ndarray, " 2"],
    factors: type = np.float64,
) -> Float[np.ndarray, "n 4"]:
    """Returns the float32 boxes of an image, scaled to another size of the image.

    Each axis has its exact factor, new size over old; rounded sizes make the two differ a little.
    `factors` are float32 for boxes that go into training and float64 for boxes that come out.
    """
    fy, fx = np.asarray(to_hw, np.float64) / np.asarray(from_hw, np.float64)
    return (boxes * np.array([[fx, fy, fx, fy]], factors)).astype(np.float32)


def flip_horizontally(
    image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "n 4"]
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "n 4"]]:
    """Returns the mirrored image and boxes: x becomes width - x, and x1 and x2 are swapped."""
    width = np.float32(image.shape[1])
    x1, y1, x2, y2 = boxes.T
    # The view `image[:, ::-1]` would be copied pixel by pixel later, in 4 ms instead of 1.
    return cv2.flip(image, 1), np.stack([width - x2, y1, width - x1, y2], axis=1)


def resize(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "n 4"],
    new_hw: tuple[int, int],
    out: UInt8[np.ndarray, "h w 3"] | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "n 4"]]:
    """Returns the resized image, written into `out` if given, and its scaled boxes.

    For the boxes see `rescale`.
    """
    height, width = image.shape[:2]
    new_height, new_width = new_hw
    out = np.empty((*new_hw, 3), np.uint8) if out is None else out
    if (height, width) == (new_height, new_width):
        out[:] = image
    else:
        # Bilinear sampling skips pixels when it shrinks by more than 2; averaging does not.
        shrinks = new_height < height or new_width < width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(image, (new_width, new_height), dst=out, interpolation=method)
    return out, rescale(boxes, (height, width), new_hw, np.float32)


def show(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "n 4"],
    view: View,
    out: UInt8[np.ndarray, "h w 3"] | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "n 4"]]:
    """Returns what `view` shows of an image, written into `out` if given, and of its boxes.

    A box that reaches out of a cropped image is clipped; one wholly outside has no area.
    """
    rows, columns = view.image_hw
    if view.image_hw == view.resized_hw:
        return resize(image, boxes, view.resized_hw, out)
    resized, boxes = resize(image, boxes, view.resized_hw)
    top, left = view.corner
    shown = resized[top : top + rows, left : left + columns]
    if out is not None:
        out[:] = shown
        shown = out
    moved = boxes - np.float32([[left, top, left, top]])
    return shown, np.clip(moved, 0, np.float32([[columns, rows, columns, rows]]))
