"""How large an image is shown, and which part of it: resized to its two sides, or jittered."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rpn_jax.data.plan import Buckets
from rpn_jax.data.transforms import View, resized_by, whole_view


class Scale(NamedTuple):
    """The length of the shorter side, the limit of the longer, and the canvases for both."""

    shorter_side: int
    longer_side: int
    buckets: Buckets

    def view(
        self, height: int, width: int, canvas_hw: tuple[int, int], draws: Float[np.ndarray, "3"]
    ) -> View:
        """Returns the whole of an image of that size, no larger than the canvas."""
        del draws
        return whole_view(
            height,
            width,
            shorter_side=self.shorter_side,
            longer_side=self.longer_side,
            canvas_hw=canvas_hw,
        )


class Jitter(NamedTuple):
    """Large-scale jitter (arXiv 2012.07177): each image of a size of its own on one canvas.

    An image is resized by `smallest` to `largest` times the factor with which it just fits the
    canvas. What is larger than the canvas is cropped at random, what is smaller is padded.

    Fields:
      smallest: the least factor.
      largest: the greatest.
      min_side: pixels; a box of which the crop leaves less in width or height goes.
      buckets: one canvas for all images, see `one_canvas`.
    """

    smallest: float
    largest: float
    min_side: float
    buckets: Buckets

    def view(
        self, height: int, width: int, canvas_hw: tuple[int, int], draws: Float[np.ndarray, "3"]
    ) -> View:
        """Returns the part of an image that `draws` (factor, row, column; from [0, 1)) choose."""
        factor = self.smallest + draws[0] * (self.largest - self.smallest)
        fitting = min(canvas_hw[0] / height, canvas_hw[1] / width)
        resized = resized_by(height, width, factor * fitting)
        rows, columns = (
            min(side, of_canvas) for side, of_canvas in zip(resized, canvas_hw, strict=True)
        )
        corner = int(draws[1] * (resized[0] - rows + 1)), int(draws[2] * (resized[1] - columns + 1))
        return View(resized, corner, (rows, columns), self.min_side)


def one_canvas(canvas_hw: tuple[int, int], count: int) -> Buckets:
    """Returns a single canvas for `count` images."""
    return Buckets((canvas_hw,), np.zeros(count, np.int64))
