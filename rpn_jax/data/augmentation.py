"""Augmentations: what a training step shows of an image, drawn anew each time.

An augmentation is a function of a `Sample` and a NumPy generator, and returns a `Sample`. It comes
after decoding and before mirroring and resizing. The generator follows from the seed, the step, the
image's place in the batch and the augmentation's place in the list, and from nothing else.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from rpn_jax.data import images
from rpn_jax.data.datasets import Record
from rpn_jax.data.masks import Masks
from rpn_jax.parts import check_call, import_part, is_import_path, running, wrong_part


class Sample(NamedTuple):
    """An image and its boxes, x1, y1, x2, y2 in continuous pixels of the image as it is here.

    Fields:
      image: RGB.
      boxes: of the objects, within the image.
      labels: places of their classes among the dataset's.
      ignore: True for a region that is neither object nor background.
      masks: of the objects, bitmaps of the image's size; None where no masks are trained.
      proposals: boxes that a Fast R-CNN is given, which move as the objects do; else none.
      proposal_scores: of these.
    """

    image: UInt8[np.ndarray, "H W 3"]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    ignore: Bool[np.ndarray, " n"]
    masks: Masks | None
    proposals: Float[np.ndarray, "P 4"]
    proposal_scores: Float[np.ndarray, " P"]

    def keep(self, kept: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> "Sample":
        """Returns the sample with some of its objects: those that are True, or at these places."""
        return self._replace(
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            ignore=self.ignore[kept],
            masks=None if self.masks is None else self.masks[kept],
        )

    def window(self, top: int, left: int, height: int, width: int) -> "Sample":
        """Returns what a window inside the image shows, of that many pixels.

        Boxes are clipped to the window, masks are cut to it. Boxes and proposals of which it shows
        nothing go.
        """

        def clipped(boxes):
            moved = boxes - np.float32([[left, top] * 2])
            return np.clip(moved, 0, np.float32([[width, height] * 2]))

        return self._replace(
            image=self.image[top : top + height, left : left + width],
            boxes=clipped(self.boxes),
            masks=None if self.masks is None else self.masks.window(top, left, height, width),
            proposals=clipped(self.proposals),
        ).with_area()

    def with_area(self) -> "Sample":
        """Returns the sample without the boxes and proposals that have no area."""
        has_area = (self.proposals[:, 2:] > self.proposals[:, :2]).all(axis=1)
        return self._replace(
            proposals=self.proposals[has_area], proposal_scores=self.proposal_scores[has_area]
        ).keep((self.boxes[:, 2:] > self.boxes[:, :2]).all(axis=1))


Augmentation = Callable[[Sample, np.random.Generator], Sample]


def decoded(
    record: Record,
    proposals: Float[np.ndarray, "P 4"],
    scores: Float[np.ndarray, " P"],
    *,
    with_masks: bool,
) -> Sample:
    """Returns a record, and the proposals that its image is given, as they are."""
    masks = None
    if with_masks:
        counts = record.masks or [b""] * len(record.boxes)
        masks = Masks(counts, record.height, record.width)
    return Sample(
        images.decode_image(record.image_bytes, record.filename, record.turn),
        record.boxes,
        record.labels,
        record.ignore,
        masks,
        proposals,
        scores,
    )


@dataclasses.dataclass(frozen=True)
class Crop:
    """SSD's random crop (arXiv 1512.02325, section 2.2), as torchvision's `RandomIoUCrop` has it.

    A least overlap is drawn. Then windows are drawn, until one has an aspect ratio in the range and
    the centre of an object whose IoU with the window is at least that. Objects whose centre is
    outside of the window go, and the others are clipped to it. The whole image is shown where the
    overlap drawn is 1, where there is no object, and after `trials` windows in vain (torchvision
    then draws another overlap). Ignore regions do not count, and stay as far as they are shown:
    without them, the visible part of a crowd would become background.

    Fields:
      min_overlaps: of which one is drawn; from 1 on the whole image is shown.
      scales: range of the window's sides, in parts of those of the image.
      aspect_ratios: range of width / height of the window.
      trials: windows that are drawn.
    """

    min_overlaps: tuple[float, ...]
    scales: tuple[float, float]
    aspect_ratios: tuple[float, float]
    trials: int = 40

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Returns what the window shows."""
        least = rng.choice(self.min_overlaps)
        if least >= 1 or sample.ignore.all():
            return sample
        height, width = sample.image.shape[:2]
        for _ in range(self.trials):
            draws = rng.random(4)
            part = self.scales[0] + draws[:2] * (self.scales[1] - self.scales[0])
            rows, columns = int(height * part[0]), int(width * part[1])
            top, left = int((height - rows) * draws[2]), int((width - columns) * draws[3])
            if rows and columns and self._accepts(sample, least, (top, left, rows, columns)):
                centred = _centred(sample.boxes, top, left, rows, columns)
                return sample.keep(centred | sample.ignore).window(top, left, rows, columns)
        return sample

    def _accepts(self, sample: Sample, least: float, window: tuple[int, int, int, int]) -> bool:
        top, left, rows, columns = window
        if not self.aspect_ratios[0] <= columns / rows <= self.aspect_ratios[1]:
            return False
        boxes = sample.boxes[_centred(sample.boxes, *window) & ~sample.ignore].astype(np.float64)
        first = np.maximum(boxes[:, :2], [left, top])
        last = np.minimum(boxes[:, 2:], [left + columns, top + rows])
        shared = np.prod(np.maximum(last - first, 0), axis=1)
        union = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + rows * columns - shared
        return bool((shared >= least * union).any())


def _centred(
    boxes: Float[np.ndarray, "n 4"], top: int, left: int, rows: int, columns: int
) -> Bool[np.ndarray, " n"]:
    """Returns True for the boxes whose centre is inside a window."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > [left, top]) & (centres < [left + columns, top + rows])).all(axis=1)


@dataclasses.dataclass(frozen=True)
class Color:
    """Brightness, contrast, saturation and hue, each by a factor that is drawn, in a random order.

    They are those of torchvision's `ColorJitter`, for images of bytes.

    Fields:
      brightness: the factor is from 1 - brightness, at least 0, to 1 + brightness; 0 changes
        nothing.
      contrast: the same.
      saturation: the same.
      hue: turns of the circle of hues, from -hue to hue.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Returns the sample with another image."""
        order, draws = rng.permutation(4), rng.random(4)
        image = sample.image
        for which in order:
            change, strength = (
                (adjust_brightness, self.brightness),
                (adjust_contrast, self.contrast),
                (adjust_saturation, self.saturation),
                (adjust_hue, self.hue),
            )[which]
            middle = 0 if change is adjust_hue else 1
            factor = middle + strength * (2 * draws[which] - 1)
            if strength:
                image = change(image, factor if change is adjust_hue else max(factor, 0))
        return sample._replace(image=image)


def adjust_brightness(
    image: UInt8[np.ndarray, "H W 3"], factor: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the image with each value times `factor`, as torchvision's function of that name."""
    return cv2.LUT(image, _as_bytes(np.float32(factor) * _VALUES))


def adjust_contrast(image: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Returns each value's distance from the mean grey times `factor`, as torchvision does."""
    mean = np.float32(_grey(image.astype(np.float32)).mean(dtype=np.float64))
    return cv2.LUT(image, _as_bytes(np.float32(factor) * _VALUES + np.float32(1 - factor) * mean))


def adjust_saturation(
    image: UInt8[np.ndarray, "H W 3"], factor: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns each value's distance from its pixel's grey times `factor`, as torchvision does.

    torchvision rounds once less: in one of 1000 values the last bit is another.
    """
    pixels = image.astype(np.float32)
    grey = _grey(pixels)
    grey *= np.float32(1 - factor)
    pixels *= np.float32(factor)
    pixels += grey[..., None]
    return _as_bytes(pixels)


def adjust_hue(image: UInt8[np.ndarray, "H W 3"], turns: float) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the image with its hues moved along their circle, as torchvision's function does.

    OpenCV rounds another way: in less than one of 100 values the last bit is another.
    """
    hsv = cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2HSV)
    cv2.add(hsv, (360 * (turns % 1), 0, 0, 0), dst=hsv)  # the way back begins anew at 360 degrees
    pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    pixels *= np.float32(256 - 1e-3)
    return _as_bytes(pixels)


_VALUES = np.arange(256, dtype=np.float32)


def _as_bytes(values: Float32[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Returns the values cut off, as torchvision does, and not rounded."""
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _grey(pixels: Float32[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W"]:
    """Returns torchvision's grey of each pixel, a whole number."""
    grey = cv2.transform(pixels, np.float32([[0.2989, 0.587, 0.114]]))
    return np.floor(grey, out=grey)


# By their names in a config.
BUILT_IN = {"crop": Crop, "color": Color}


def build_augmentations(
    field: str, names: Sequence[str], fields: Mapping[str, Mapping[str, Any]], num_classes: int
) -> list[Augmentation]:
    """Returns augmentations by their names, in their order.

    Args:
      field: of the config that has the names, for messages.
      names: of those built in, and import paths.
      fields: those of each that is built in, by its name.
      num_classes: of the dataset.

    Raises:
      UserError: an import path names nothing that can be called with a sample and a generator.
    """
    augmentations: list[Augmentation] = []
    for name in names:
        if is_import_path(name):
            function = import_part(field, name)
            check_call(field, name, function, "sample", "rng")
            augmentations.append(Own(field, name, function, num_classes))
        else:
            augmentations.append(BUILT_IN[name](**fields[name]))
    return augmentations


@dataclasses.dataclass(frozen=True)
class Own:
    """An augmentation of one's own, whose samples are checked.

    Fields:
      field: of the config that has the path, for messages.
      path: its import path.
      function: what it names.
      num_classes: of the dataset.
    """

    field: str
    path: str
    function: Augmentation
    num_classes: int

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Returns what the function returns, with masks as this package has them.

        Raises:
          UserError: it fails, or returns no sample, or one whose parts do not fit together.
        """
        with running(self.field, self.path):
            found = self.function(sample, rng)
            if not isinstance(found, Sample):
                what = f"returns no Sample, but {type(found).__name__}"
                raise wrong_part(self.field, self.path, what)
            if wrong := _wrong(found, sample, self.num_classes):
                raise wrong_part(self.field, self.path, f"returns a Sample whose {wrong}")
        masks = found.masks
        if not isinstance(masks, Masks | None):
            masks = Masks.of(np.asarray(masks, bool))
        border = np.float32([found.image.shape[1::-1] * 2])
        return found._replace(
            boxes=np.clip(np.asarray(found.boxes, np.float32), 0, border),
            labels=np.asarray(found.labels, np.int64),
            ignore=np.asarray(found.ignore, bool),
            masks=masks,
            proposals=np.clip(np.asarray(found.proposals, np.float32), 0, border),
            proposal_scores=np.asarray(found.proposal_scores, np.float32),
        ).with_area()


def _wrong(found: Sample, given: Sample, num_classes: int) -> str | None:
    """Returns what does not fit in a sample that was made of `given`; None where all does."""
    image = found.image
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        return f"image is no uint8 array (H, W, 3), but {_kind(image)}"
    if not image.size:
        return "image has no pixel"
    arrays = {name: np.shape(value) for name, value in found._asdict().items() if name != "masks"}
    for boxes, others in (("boxes", ("labels", "ignore")), ("proposals", ("proposal_scores",))):
        values, count = getattr(found, boxes), arrays[boxes][:1]
        if arrays[boxes] != (*count, 4):
            return f"{boxes} are no array (n, 4), but {_kind(values)}"
        values = np.asarray(values)
        if not np.issubdtype(values.dtype, np.number):
            return f"{boxes} are no numbers, but {_kind(values)}"
        if not np.isfinite(values).all():
            return f"{boxes} are not finite"
        if (values[:, 2:] < values[:, :2]).any():
            return f"{boxes} are not x1, y1, x2, y2: some end before they begin"
        for other in others:
            if arrays[other] != count:
                return f"{other} have the shape {arrays[other]}, for {count[0]} {boxes}"
    if not np.isin(found.labels, np.arange(num_classes)).all():
        return f"labels are not from 0 to {num_classes - 1}, the places of the dataset's classes"
    if np.size(found.ignore) and np.asarray(found.ignore).dtype != bool:
        return f"ignore is no array of bools, but {_kind(np.asarray(found.ignore))}"
    if len(found.proposals) > len(given.proposals):
        return f"proposals are {len(found.proposals)}, of {len(given.proposals)} given"
    if (found.masks is None) != (given.masks is None):
        return f"masks are {'none' if found.masks is None else 'new'}; keep them as they are given"
    if found.masks is not None:
        shape = np.shape(masks := found.masks)
        if isinstance(masks, Masks):
            shape = len(masks), masks.height, masks.width
        expected = (len(found.boxes), *image.shape[:2])
        if shape != expected:
            return f"masks have the shape {shape}, and boxes and image are of {expected}"
    return None


def _kind(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if dtype is None else f"{dtype} {shape}"
