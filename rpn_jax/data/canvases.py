"""The sizes (height, width) of canvases, which images are padded to: few, as each is compiled."""

import numpy as np
from jaxtyping import Int

from rpn_jax.data.transforms import resized_hw

LONGER_SIDES = 4  # lengths that the longer side may have where images are of any size


def rounded_up(sides: Int[np.ndarray, "*N"] | int, multiple: int) -> Int[np.ndarray, "*N"] | int:
    """Returns whole numbers rounded up to a multiple."""
    return -(-sides // multiple) * multiple


def canvas_hw(
    height: int, width: int, shorter_side: int, longer_side: int, *, exact: bool = False
) -> tuple[int, int]:
    """Returns the canvas for an image of that size, one of few, so that few are compiled.

    An `exact` one is but rounded up to a multiple of 32, as torchvision's and detectron2's is when
    an image is alone: where anchors on the padding propose too, it shows in the proposals.
    """
    new_hw = resized_hw(height, width, shorter_side=shorter_side, longer_side=longer_side)
    if exact:
        return rounded_up(new_hw[0], 32), rounded_up(new_hw[1], 32)
    shortest = min(shorter_side, longer_side)
    lengths = np.ceil(np.linspace(shortest, longer_side, LONGER_SIDES)).astype(int)
    lengths = rounded_up(lengths, 32)
    longer = int(lengths[np.searchsorted(lengths, max(new_hw))])
    return (longer, int(lengths[0])) if height > width else (int(lengths[0]), longer)


def largest_canvas_hw(shorter_side: int, longer_side: int, multiple: int = 16) -> tuple[int, int]:
    """Returns the canvas of a landscape image of the largest size, rounded as in training."""
    shorter = min(shorter_side, longer_side)
    return rounded_up(shorter, multiple), rounded_up(longer_side, multiple)
