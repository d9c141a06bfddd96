"""What a detector finds in any images: read, put on a canvas, predict, map to original pixels."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from rpn_jax.data.canvases import canvas_hw
from rpn_jax.data.images import decode_image, read_image
from rpn_jax.data.loader import usable_cores
from rpn_jax.data.masks import Masks
from rpn_jax.data.proposals import StoredProposals
from rpn_jax.data.transforms import rescale, resize, resized_hw
from rpn_jax.data.videos import is_video
from rpn_jax.detectors.detector import Detector
from rpn_jax.errors import UserError
from rpn_jax.evaluation.masks import paste_all
from rpn_jax.progress import progress_bar
from rpn_jax.runs.devices import parallel_map, shard, unshard
from rpn_jax.training.predict_steps import make_predict_step
from rpn_jax.training.splits import given_proposals
from rpn_jax.typing import Detections, Proposals

ImageSource = str | os.PathLike | np.ndarray  # a file, or (H, W, 3) uint8 RGB pixels


class PredictedImage(NamedTuple):
    """The proposals or detections of an image, or the error.

    Fields:
      index: index of the image in the input.
      pixels: RGB pixels; empty on an error.
      boxes: boxes in these pixels, by falling score.
      scores: scores of the boxes.
      labels: classes of the boxes as places among the class names; None for proposals.
      error: one line about an image that cannot be read.
      masks: of the boxes, in these pixels; None where the detector makes none.
    """

    index: int
    pixels: UInt8[np.ndarray, "H W 3"] | None
    boxes: Float[np.ndarray, "P 4"]
    scores: Float[np.ndarray, " P"]
    labels: Int[np.ndarray, " P"] | None = None
    error: str | None = None
    masks: Masks | None = None


class Predictor:
    """A detector with a compiled program for each canvas, compiled on first use."""

    def __init__(self, config: ConfigDict, detector: Detector, variables):
        """`variables` are on all local devices."""
        self._data = config.data
        self._mask = config.get("mask")
        self._is_exact = "rpn" in config and config.rpn.proposals.keep_padding
        self._variables = variables
        self._step = parallel_map(make_predict_step(detector))

    def predict(
        self,
        sources: Sequence[ImageSource],
        names: Sequence[str] | None = None,
        proposals: StoredProposals | None = None,
    ) -> Iterator[PredictedImage]:
        """Yields what is found in every image, in order of completion.

        Images of one canvas go through the network together, one for each local device. An image
        that cannot be read is yielded with its `error`. Several images have a progress bar.
        `names` are names of arrays, for messages. `proposals` are for a detector without an RPN.
        """
        count = jax.local_device_count()
        waiting: dict[tuple[int, int], list] = {}
        for index, pixels, error in self._read(sources, names):
            if error:
                nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
                yield PredictedImage(index, None, *nothing, error=error)
                continue
            canvas = self._canvas_of(pixels)
            group = waiting.setdefault(canvas, [])
            group.append((index, pixels))
            if len(group) == count:
                yield from self._predict_group(canvas, waiting.pop(canvas), proposals)
        for canvas, group in waiting.items():
            yield from self._predict_group(canvas, group, proposals)

    def predict_stream(self, images: Iterable[np.ndarray]) -> Iterator[PredictedImage]:
        """Yields what is found in every image, in their order, while they come.

        Consecutive images of one canvas go through the network together, one for each local device.

        Raises:
            UserError: an image is not (H, W, 3) uint8.
        """
        group: list[tuple[int, np.ndarray]] = []
        canvas = None
        for index, image in enumerate(images):
            pixels = read_pixels(image, f"images[{index}]")
            if group and self._canvas_of(pixels) != canvas:
                yield from self._predict_group(canvas, group, None)
                group = []
            canvas = self._canvas_of(pixels)
            group.append((index, pixels))
            if len(group) == jax.local_device_count():
                yield from self._predict_group(canvas, group, None)
                group = []
        if group:
            yield from self._predict_group(canvas, group, None)

    def _canvas_of(self, pixels: np.ndarray) -> tuple[int, int]:
        sides = self._data.shorter_side, self._data.longer_side
        return canvas_hw(*pixels.shape[:2], *sides, exact=self._is_exact)

    def _read(self, sources: Sequence[ImageSource], names: Sequence[str] | None):
        """Returns `(index, pixels, error)` for each source in order, read ahead by threads."""

        def read(index: int):
            name = names[index] if names else str(index)
            try:
                return index, read_pixels(sources[index], name), None
            except UserError as error:
                return index, None, str(error)

        if len(sources) < 2:
            return map(read, range(len(sources)))
        options = grain.ReadOptions(
            num_threads=self._data.num_threads or usable_cores(), prefetch_buffer_size=16
        )
        images = grain.MapDataset.source(range(len(sources))).map(read).to_iter_dataset(options)
        return progress_bar(images, total=len(sources), description="predicting", unit="image")

    def _predict_group(self, canvas, group, proposals) -> Iterator[PredictedImage]:
        images = np.zeros((jax.local_device_count(), *canvas, 3), np.uint8)
        image_hw = np.ones((len(images), 2), np.float32)
        sides = {
            "shorter_side": self._data.shorter_side,
            "longer_side": self._data.longer_side,
        }
        for i, (_, pixels) in enumerate(group):
            height, width = resized_hw(*pixels.shape[:2], **sides)
            no_boxes = np.zeros((0, 4), np.float32)
            resize(pixels, no_boxes, (height, width), out=images[i, :height, :width])
            image_hw[i] = height, width
        batch = (images, image_hw)
        if proposals is not None:
            batch += (_of_group(proposals, group, image_hw, len(images)),)
        found = unshard(self._step(self._variables, shard(batch)))
        for i, (index, pixels) in enumerate(group):
            valid = found.valid[i]
            boxes = rescale(found.boxes[i][valid], image_hw[i], pixels.shape[:2])
            labels = found.labels[i][valid] - 1 if isinstance(found, Detections) else None
            masks = None
            if isinstance(found, Detections) and found.masks is not None:
                how = self._mask.pasting, self._mask.threshold
                hw = pixels.shape[:2]
                masks = Masks(paste_all(found.masks[i][valid], boxes, hw, *how), *hw)
            scores = found.scores[i][valid]
            yield PredictedImage(index, pixels, boxes, scores, labels, masks=masks)


def _of_group(stored: StoredProposals, group, image_hw: np.ndarray, size: int) -> Proposals:
    """Returns the stored proposals of a group's images, in pixels of their canvas."""
    boxes = np.zeros((size, stored.most, 4), np.float32)
    scores, valid = np.zeros(boxes.shape[:2], np.float32), np.zeros(boxes.shape[:2], bool)
    for i, (index, pixels) in enumerate(group):
        given, given_scores = stored.of(index)
        boxes[i, : len(given)] = rescale(given, pixels.shape[:2], image_hw[i], np.float32)
        scores[i, : len(given)] = given_scores
        valid[i, : len(given)] = True
    return given_proposals(boxes, scores, valid)


def read_pixels(source: ImageSource, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the RGB pixels of a file or an array; `name` is the array's, for messages.

    Raises:
        UserError: the file cannot be read, or the array is not (H, W, 3) uint8 with pixels in it.
    """
    if isinstance(source, str | os.PathLike):
        if is_video(source):
            raise UserError(
                f"{source}: a video; give its frames, an iterator of arrays, such as (frame.pixels "
                "for frame in rpn_jax.data.videos.read_frames(path))"
            )
        return decode_image(read_image(source), str(source))
    try:
        pixels = np.asarray(source)
    except Exception as error:  # an object that is no image may raise anything
        raise UserError(f"{name}: is no array; give (H, W, 3) uint8 RGB, or a path") from error
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape or pixels.dtype != np.uint8:
        raise UserError(
            f"{name}: an array of shape {pixels.shape} and type {pixels.dtype}; give (H, W, 3) "
            "uint8 RGB, at least a pixel, or a list of such arrays; of PIL's other modes "
            "image.convert('RGB')"
        )
    return pixels
