"""Flip and resize one example. Images are RGB uint8 arrays (H, W, 3)."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

_LEAST_SIDE = 8


def resized_hw(height: int, width: int, *, shorter_side: int, longer_side: int) -> tuple[int, int]:
    """Returns the size at which the shorter side is `shorter_side`, the longer at most its cap.

    The rule of the paper, of detectron2 and of torchvision; sizes are rounded to the nearest
    pixel, as detectron2 does (torchvision rounds down). A side that would become shorter than
    half a stride of 16 becomes that long: the image would have no anchor with its centre in it.
    """
    scale = min(shorter_side / min(height, width), longer_side / max(height, width))
    least = min(_LEAST_SIDE, shorter_side)
    return max(least, int(height * scale + 0.5)), max(least, int(width * scale + 0.5))


def rescale(
    boxes: Float[np.ndarray, "n 4"],
    from_hw: Sequence[int] | Shaped[np.ndarray, " 2"],
    to_hw: Sequence[int] | Shaped[np.ndarray, " 2"],
    factors: type = np.float64,
) -> Float[np.ndarray, "n 4"]:
    """Returns float32 boxes of an image as they lie in the same image at another size.

    Each axis has its exact factor, new size over old, which rounding makes differ a little; what
    goes into training has `factors` in float32, what comes out in float64.
    """
    fy, fx = np.asarray(to_hw, np.float64) / np.asarray(from_hw, np.float64)
    return (boxes * np.array([[fx, fy, fx, fy]], factors)).astype(np.float32)


def flip_horizontally(
    image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "n 4"]
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "n 4"]]:
    """Returns the mirrored image and boxes: x becomes width - x, and x1 and x2 change places."""
    width = np.float32(image.shape[1])
    x1, y1, x2, y2 = boxes.T
    # A view, `image[:, ::-1]`, would be copied pixel by pixel later: 4 ms in place of 1.
    return cv2.flip(image, 1), np.stack([width - x2, y1, width - x1, y2], axis=1)


def resize(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "n 4"],
    new_hw: tuple[int, int],
    out: UInt8[np.ndarray, "h w 3"] | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "n 4"]]:
    """Returns the image at its new size, written into `out` if given, and its boxes with it.

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
