"""Masks of objects: run-length codes of a whole image as COCO has them, and cut to a box.

A mask is kept as pycocotools' compressed counts, of an image whose height and width are known; b""
stands for an object without a mask.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask
from jaxtyping import Bool, Float, Shaped, UInt8


class Masks(Sequence):
    """Masks of an image, each decoded when it is asked for, to (H, W) bool.

    `np.asarray` of it is (n, H, W). A slice, and an array of places or of bool as for NumPy, choose
    some of them. One that nobody drew is False everywhere.
    """

    def __init__(self, counts: Sequence[bytes], height: int, width: int):
        """`counts` are those of each mask, see the top of this file."""
        self._counts, self.height, self.width = tuple(counts), height, width
        # Of the image that the counts are of, and where in it the first pixel of these masks is.
        self._coded_hw, self._corner = (height, width), (0, 0)

    @classmethod
    def of(cls, bitmaps: Bool[np.ndarray, "n H W"]) -> "Masks":
        """Returns the masks that these bitmaps show."""
        return cls([encode(bitmap) for bitmap in bitmaps], *bitmaps.shape[1:])

    @property
    def counts(self) -> tuple[bytes, ...]:
        """Those of each mask, see the top of this file."""
        if (self.height, self.width) == self._coded_hw:
            return self._counts
        return tuple(counts and encode(self[i]) for i, counts in enumerate(self._counts))

    def __repr__(self) -> str:
        return f"<{len(self)} masks of {self.height} x {self.width} pixels>"

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, index: Any) -> Any:
        chosen = np.arange(len(self))[index]
        if chosen.ndim:
            some = copy.copy(self)
            some._counts = tuple(self._counts[i] for i in chosen)
            return some
        counts, (top, left) = self._counts[chosen], self._corner
        if not counts:
            return np.zeros((self.height, self.width), bool)
        bitmap = decode(counts, *self._coded_hw)
        return bitmap[top : top + self.height, left : left + self.width].astype(bool)

    def window(self, top: int, left: int, height: int, width: int) -> "Masks":
        """Returns the masks as a window inside the image shows them."""
        moved = copy.copy(self)
        moved._corner = self._corner[0] + top, self._corner[1] + left
        moved.height, moved.width = height, width
        return moved

    def cut(
        self, index: int, box: Float[np.ndarray, "4"], size: int
    ) -> UInt8[np.ndarray, "{size} {size}"]:
        """Returns a mask cut to a box inside the image, see the function `cut`."""
        top, left = self._corner
        height, width = self._coded_hw
        border = np.array([width, height] * 2)
        there = np.clip(box + np.array([left, top] * 2), 0, border)
        return cut(self._counts[index], height, width, there, size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Bool[np.ndarray, "n H W"]:
        """Returns all masks; `copy` is NumPy's, which always gets a new array."""
        if not len(self):
            return np.zeros((0, self.height, self.width), dtype or bool)
        return np.stack([np.asarray(mask, dtype) for mask in self])

    def to_coco(self) -> list[dict[str, Any]]:
        """Returns the masks as COCO's compressed runs, for `json.dump` and pycocotools."""
        size = [self.height, self.width]
        return [{"size": list(size), "counts": counts.decode("ascii")} for counts in self.counts]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns what an .npz has of the masks: of each, the runs' `counts` and the image's size.

        `pycocotools.mask.decode({"size": mask_sizes[i], "counts": bytes(masks[i])})` is a bitmap.
        """
        sizes = np.tile(np.array([[self.height, self.width]], np.int32), (len(self), 1))
        # No counts end in a zero byte, which NumPy would leave out.
        return {"masks": np.array(self.counts, np.bytes_), "mask_sizes": sizes}


def encode(bitmap: Bool[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"]) -> bytes:
    """Returns the counts of a bitmap, of 0 and 1."""
    return pycocotools.mask.encode(np.asfortranarray(bitmap, np.uint8))["counts"]


def encode_window(
    inside: Bool[np.ndarray, "h w"], rows: slice, columns: slice, height: int, width: int
) -> bytes:
    """Returns the counts of an image that is 0 but for those rows and columns.

    It is what `encode` returns, in a time that does not grow with the image.
    """
    # Runs go down the columns, a start and an end for each run of a column.
    edges = np.diff(np.pad(inside.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (x, y), (x_end, y_end) = (np.nonzero(edges == sign) for sign in (1, -1))
    starts = (columns.start + x) * height + rows.start + y
    ends = (columns.start + x_end) * height + rows.start + y_end
    places = np.stack([starts, ends], axis=1).ravel()
    # One that reaches the last row goes on in the first row of the next column.
    goes_on = np.diff(places, prepend=-1, append=-1) == 0
    places = places[~(goes_on[1:] | goes_on[:-1])]
    counts = np.diff([0, *places, height * width])
    if counts[-1] == 0:
        counts = counts[:-1]
    runs = {"size": [height, width], "counts": counts.tolist()}
    return pycocotools.mask.frPyObjects(runs, height, width)["counts"]


def of_box(box: Float[np.ndarray, "4"], height: int, width: int) -> bytes:
    """Returns the counts of a box."""
    x1, y1, x2, y2 = np.asarray(box, np.float64).tolist()
    (runs,) = pycocotools.mask.frPyObjects([[x1, y1, x2, y1, x2, y2, x1, y2]], height, width)
    return runs["counts"]


def decode(counts: bytes, height: int, width: int) -> UInt8[np.ndarray, "{height} {width}"]:
    """Returns the bitmap, of 0 and 1.

    Raises:
      ValueError: the counts run over the image.
    """
    return pycocotools.mask.decode(as_runs(counts, height, width))


def as_runs(counts: bytes, height: int, width: int) -> dict:
    """Returns the counts as pycocotools takes them."""
    return {"size": [height, width], "counts": counts}


def fills(counts: bytes, height: int, width: int) -> bool:
    """Returns whether counts of any origin are of exactly as many pixels as the image has.

    Where they are of fewer, pycocotools' bitmap ends in whatever the memory held before; where they
    end in the middle of a number, it reads on behind them.
    """
    # Six bits a character, of which the highest says that the number goes on.
    digits = np.frombuffer(counts, np.uint8).astype(int) - ord("0")
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] > 31:
        return False
    pixels = height * width
    return _fit_into(counts, pixels) and not _fit_into(counts, pixels - 1)


def _fit_into(counts: bytes, pixels: int) -> bool:
    try:
        pycocotools.mask.decode(as_runs(counts, pixels, 1))
    except ValueError:
        return False
    return True


def area(counts: bytes, height: int, width: int) -> int:
    """Returns how many pixels a mask has."""
    return int(pycocotools.mask.area(as_runs(counts, height, width)))


def extent(counts: bytes, height: int, width: int) -> Float[np.ndarray, "4"]:
    """Returns the box round a mask; four zeros for one without a pixel."""
    x, y, w, h = pycocotools.mask.toBbox(as_runs(counts, height, width))
    return np.array([x, y, x + w, y + h])


def cut(
    counts: bytes, height: int, width: int, box: Float[np.ndarray, "4"], size: int
) -> UInt8[np.ndarray, "{size} {size}"]:
    """Returns the part of each of `size` x `size` cells of a box that the object covers, in 255ths.

    Args:
      counts: of the mask.
      height: of the image.
      width: the same.
      box: inside the image; of one without an area nothing is covered.
      size: S, rows and columns of cells.
    """
    if not counts or not (box[2:] > box[:2]).all():
        return np.zeros((size, size), np.uint8)
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    bitmap = decode(counts, height, width)[top:bottom, left:right]
    # By running sums and not by matrices, since the threads of a BLAS would wait for each other in
    # the threads of the loader, at many times the cost.
    columns = _sums(bitmap.T, box[0] - left, box[2] - left, size)
    covered = _sums(columns.T, box[1] - top, box[3] - top, size)
    return np.rint(255 * size**2 / np.prod(box[2:] - box[:2]) * covered).astype(np.uint8)


def _sums(
    pixels: Shaped[np.ndarray, "N K"], start: float, end: float, cells: int
) -> Float[np.ndarray, "{cells} K"]:
    """Returns the sum of the pixels, and parts of pixels, in each cell along the first axis."""
    before = np.zeros((len(pixels) + 1, pixels.shape[1]))
    np.cumsum(pixels, axis=0, out=before[1:])
    edges = np.linspace(start, end, cells + 1)
    pixel = np.minimum(edges.astype(int), len(pixels) - 1)
    until = before[pixel] + (edges - pixel)[:, None] * pixels[pixel]
    return np.diff(until, axis=0)
