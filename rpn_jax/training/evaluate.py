"""Evaluating a trained network on a split: its proposals, recall and validation loss."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset, Record
from rpn_jax.data.loader import Batch, eval_batches
from rpn_jax.data.plan import Buckets, choose_buckets
from rpn_jax.data.scales import Scale
from rpn_jax.data.transforms import rescale
from rpn_jax.detectors.detector import Detector
from rpn_jax.evaluation.detections import ImageDetections
from rpn_jax.evaluation.figures import Figures, Measurement
from rpn_jax.evaluation.masks import paste_all
from rpn_jax.evaluation.recall import ImageProposals
from rpn_jax.progress import progress_bar
from rpn_jax.runs.config import random_key
from rpn_jax.runs.devices import parallel_map, prefetch, replicate, shard, unshard
from rpn_jax.runs.processes import gather, is_first
from rpn_jax.text import printable
from rpn_jax.training.build import build_measurement
from rpn_jax.training.features import FeatureCache
from rpn_jax.training.predict_steps import make_eval_step
from rpn_jax.training.splits import device_batch
from rpn_jax.typing import Detections, Proposals

# Images on a device, where the config does not say.
MOST_AT_ONCE = 8


class ImageResult(NamedTuple):
    """The network's results on one image of a split."""

    index: int  # in the split
    proposals: ImageProposals  # with the annotations, in original pixels
    detections: ImageDetections | None  # the same of a second stage, if there is one
    class_index: np.ndarray  # (G,) classes of the annotated boxes
    original_hw: np.ndarray  # (2,)
    losses: dict[str, float]
    batch: Batch  # the image's batch
    place: int
    labels: np.ndarray  # labels of the sampled anchors, IGNORE elsewhere

    @property
    def masks(self) -> ImageDetections | None:
        """The detections, of which the masks are measured apart from the boxes."""
        return self.detections


def split_results(
    config: ConfigDict,
    eval_step: Callable,
    variables,
    dataset: Dataset,
    features: FeatureCache,
    *,
    description: str,
) -> Iterator[ImageResult]:
    """Yields this process's share of the split, image by image, with a progress bar.

    `eval_step` is `predict_steps.make_eval_step` mapped over the local devices.
    """
    sides = config.data.shorter_side, config.data.longer_side
    scale = Scale(*sides, buckets(config, dataset))
    batches = eval_batches(dataset, eval_batch_size(config), scale, **loader_fields(config))
    bar = progress_bar(
        total=-(-len(dataset) // jax.process_count()),
        description=description,
        unit="image",
        leave=False,
        disable=not is_first(),
    )
    key = replicate(random_key(config))
    overflow = 0
    with bar:
        pairs = prefetch(batches, lambda batch: (batch, shard(features.add(device_batch(batch)))))
        for batch, on_device in pairs:
            found, losses, labels = unshard(eval_step(variables, on_device, key))
            for place in np.flatnonzero(batch.image_valid):
                index = int(batch.image_index[place])
                record = dataset[index]
                original_hw = np.array([record.height, record.width])
                detections = None
                if found.detections:
                    of_image = jax.tree.map(itemgetter(place), found.detections)
                    overflow += int(of_image.overflow)
                    detections = _image_detections(config, record, of_image, batch.image_hw[place])
                yield ImageResult(
                    index,
                    _image_proposals(
                        record,
                        jax.tree.map(itemgetter(place), found.proposals),
                        batch.image_hw[place],
                    ),
                    detections,
                    record.labels,
                    original_hw,
                    {name: float(values[place]) for name, values in losses.items()},
                    batch,
                    int(place),
                    labels[place],
                )
                bar.update()
    if overflow:
        print(
            f"{dataset.name} {dataset.split}: {overflow} boxes above the score threshold were not "
            f"looked at; raise config.box.detections.max_candidates",
            file=sys.stderr,
        )


def _image_proposals(record: Record, found: Proposals, image_hw: np.ndarray) -> ImageProposals:
    return ImageProposals(
        record.image_id,
        rescale(found.boxes[found.valid], image_hw, np.array([record.height, record.width])),
        found.scores[found.valid],
        record.boxes,
        record.ignore,
        record.areas,
    )


def _image_detections(
    config: ConfigDict, record: Record, found: Detections, image_hw: np.ndarray
) -> ImageDetections:
    hw = record.height, record.width
    boxes, masks = rescale(found.boxes[found.valid], image_hw, np.array(hw)), None
    if found.masks is not None:
        of_image = found.masks[found.valid]
        masks = paste_all(of_image, boxes, hw, config.mask.pasting, config.mask.threshold)
    return ImageDetections(
        record.image_id,
        boxes,
        found.scores[found.valid],
        found.labels[found.valid] - 1,
        record.boxes,
        record.labels,
        record.ignore,
        record.areas,
        masks,
        record.masks,
        hw,
    )


def detector_results(
    config: ConfigDict,
    detector: Detector,
    variables,
    dataset: Dataset,
    without: Sequence[str] = (),
) -> Iterator[ImageResult]:
    """Yields a trained detector's results on a split; for `without` see its `assess`."""
    eval_step = parallel_map(make_eval_step(detector, without))
    features = FeatureCache(config, detector.network, variables)
    return split_results(config, eval_step, variables, dataset, features, description="evaluating")


def measures_masks(config: ConfigDict, dataset: Dataset) -> bool:
    """Returns whether there are masks to measure; says so of a split that lacks them."""
    if "mask" in config and not dataset.has_masks and is_first():
        print(
            printable(
                f"{dataset.name} {dataset.split}: has no masks; boxes and proposals alone are "
                "measured"
            ),
            file=sys.stderr,
        )
    return dataset.has_masks


def evaluate(
    config: ConfigDict, results: Iterator[ImageResult], *, of_masks: bool = True
) -> tuple[Figures, dict[str, float]]:
    """Returns the figures, and the mean of each loss, over all images of all processes.

    For `of_masks` see `build_measurement`.
    """
    measurement = build_measurement(config, of_masks=of_masks)
    losses: dict[str, list[float]] = {}
    for result in results:
        measurement.add(result)
        for name, value in result.losses.items():
            losses.setdefault(name, []).append(value)
    shares = gather(losses)  # empty for a process without images
    names = dict.fromkeys(name for share in shares for name in share)
    # An exact sum does not depend on how the processes share the images.
    values = {name: [x for share in shares for x in share.get(name, [])] for name in names}
    means = {name: math.fsum(of_images) / len(of_images) for name, of_images in values.items()}
    empty = build_measurement(config, of_masks=of_masks)
    return over_processes(measurement, empty).result(), means


def over_processes(measurement: Measurement, empty: Measurement) -> Measurement:
    """Returns the sum of all processes' measurements of their shares of a split.

    `empty` is a measurement of the same kind, to which they are added.
    """
    for share in gather(measurement.share()):
        empty.merge(share)
    return empty


def eval_batch_size(config: ConfigDict) -> int:
    """Returns the number of images per evaluation step, over all devices and processes.

    Each device has as many, however many there are: sums over a batch of another shape may round
    otherwise, and one rounded score can put two detections in each other's place.
    """
    of_device = config.evaluation.batch_size or min(config.batch_size, MOST_AT_ONCE)
    return jax.device_count() * of_device


def loader_fields(config: ConfigDict) -> dict[str, object]:
    """Returns the arguments that `train_batches` and `eval_batches` share."""
    data = config.data
    return {
        "max_objects": data.max_objects,
        "mask_size": config.mask.cut_size if "mask" in config else None,
        "num_threads": data.num_threads,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def buckets(config: ConfigDict, dataset: Dataset) -> Buckets:
    """Returns the canvases of a split's images."""
    data = config.data
    return choose_buckets(
        dataset.heights,
        dataset.widths,
        shorter_side=data.shorter_side,
        longer_side=data.longer_side,
        count=data.num_buckets,
    )
