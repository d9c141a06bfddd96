"""Proposals for images from anywhere: read, put on a canvas, propose, back to original pixels."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from rpn_jax.data.images import decode_image, read_image
from rpn_jax.data.loader import usable_cores
from rpn_jax.data.transforms import resize, resized_hw
from rpn_jax.detectors.detector import Detector
from rpn_jax.errors import UserError
from rpn_jax.progress import progress_bar
from rpn_jax.runs.devices import parallel_map, shard, unshard
from rpn_jax.training.predict_steps import make_predict_step

LONGER_SIDES = 4  # lengths of the longer side that a canvas may have; each is compiled once


class ProposedImage(NamedTuple):
    """What was proposed for an image file, or why nothing could be."""

    path: pathlib.Path
    image: np.ndarray | None  # (H, W, 3) uint8 RGB
    boxes: np.ndarray  # (P, 4) float32 in its pixels, by falling score
    scores: np.ndarray  # (P,)
    error: str | None = None


def propose_images(
    config: ConfigDict,
    detector: Detector,
    variables,
    paths: Sequence[pathlib.Path],
) -> Iterator[ProposedImage]:
    """Yields the proposals of every image file, in the order in which they are done.

    Images of one canvas shape go through the network together, one for each local device.
    A file that cannot be read is yielded with its `error`.
    """
    step = parallel_map(make_predict_step(detector))
    count = jax.local_device_count()
    waiting: dict[tuple[int, int], list] = {}

    def read(path: pathlib.Path):
        try:
            image = decode_image(read_image(path), str(path))
        except UserError as error:
            return path, None, str(error)
        return path, image, None

    options = grain.ReadOptions(
        num_threads=config.data.num_threads or usable_cores(), prefetch_buffer_size=16
    )
    files = grain.MapDataset.source(paths).map(read).to_iter_dataset(options)
    for path, image, error in progress_bar(
        files, total=len(paths), description="proposing", unit="image"
    ):
        if error:
            yield ProposedImage(path, None, np.zeros((0, 4)), np.zeros(0), error)
            continue
        canvas = canvas_hw(
            *image.shape[:2],
            config.data.shorter_side,
            config.data.longer_side,
            exact=config.rpn.proposals.keep_padding,
        )
        group = waiting.setdefault(canvas, [])
        group.append((path, image))
        if len(group) == count:
            yield from _propose_group(config, step, variables, canvas, waiting.pop(canvas))
    for canvas, group in waiting.items():
        yield from _propose_group(config, step, variables, canvas, group)


def canvas_hw(
    height: int, width: int, shorter_side: int, longer_side: int, *, exact: bool = False
) -> tuple[int, int]:
    """Returns the canvas for an image of that size, one of few, so that few are compiled.

    An `exact` one is but rounded up to a multiple of 32, as torchvision's and detectron2's is when
    an image is alone: where anchors on the padding propose too, it shows in the proposals.
    """
    new_hw = resized_hw(height, width, shorter_side=shorter_side, longer_side=longer_side)
    if exact:
        return -(-new_hw[0] // 32) * 32, -(-new_hw[1] // 32) * 32
    lengths = np.linspace(shorter_side, longer_side, LONGER_SIDES)
    lengths = -(-lengths // 32).astype(int) * 32
    longer = int(lengths[np.searchsorted(lengths, max(new_hw))])
    return (longer, int(lengths[0])) if height > width else (int(lengths[0]), longer)


def _propose_group(config: ConfigDict, step, variables, canvas, group) -> Iterator[ProposedImage]:
    images = np.zeros((jax.local_device_count(), *canvas, 3), np.uint8)
    image_hw = np.ones((len(images), 2), np.float32)
    for i, (_, image) in enumerate(group):
        sides = {
            "shorter_side": config.data.shorter_side,
            "longer_side": config.data.longer_side,
        }
        height, width = resized_hw(*image.shape[:2], **sides)
        no_boxes = np.zeros((0, 4), np.float32)
        resize(image, no_boxes, (height, width), out=images[i, :height, :width])
        image_hw[i] = height, width
    proposals = unshard(step(variables, shard((images, image_hw))))
    for i, (path, image) in enumerate(group):
        valid = proposals.valid[i]
        scale = (np.array(image.shape[:2]) / image_hw[i])[[1, 0, 1, 0]]
        boxes = (proposals.boxes[i][valid] * scale[None, :]).astype(np.float32)
        yield ProposedImage(path, image, boxes, proposals.scores[i][valid])
