"""The pictures of a training run: labelled anchors and proposals."""

import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.data.masks import Masks
from rpn_jax.data.transforms import rescale
from rpn_jax.detectors.detector import Detector
from rpn_jax.evaluation.detections import ImageDetections
from rpn_jax.runs.metrics import MetricsWriter
from rpn_jax.runs.processes import is_first
from rpn_jax.training.evaluate import ImageResult
from rpn_jax.visualize.boxes import draw_matches, draw_proposals, write_image
from rpn_jax.visualize.detections import draw_detections

_DRAWN_SCORE = 0.3  # of a detection in a picture


def draw_first(
    config: ConfigDict,
    detector: Detector,
    results: Iterator[ImageResult],
    folder: pathlib.Path,
    writer: MetricsWriter | None = None,
    step: int = 0,
) -> Iterator[ImageResult]:
    """Passes the results on and draws the first `config.evaluation.pictures` of them.

    They go to `folder`, and to TensorBoard where there is a writer.
    """
    for number, result in enumerate(results):
        if number < config.evaluation.pictures and is_first():
            for kind, image in image_pictures(config, detector, result).items():
                write_image(folder / f"{number}_{kind}.png", image)
                if writer:
                    writer.write_image(step, f"{kind}/{number}", image)
        yield result


def image_pictures(
    config: ConfigDict, detector: Detector, result: ImageResult
) -> dict[str, np.ndarray]:
    """Returns pictures of the network's input: with labelled anchors, proposals and detections."""
    batch, place = result.batch, result.place
    height, width = batch.image_hw[place].astype(int)
    anchors = detector.anchors(*batch.images.shape[1:3])
    image = batch.images[place, :height, :width]
    valid = batch.gt_valid[place]
    gt_boxes, gt_ignore = batch.gt_boxes[place][valid], batch.gt_ignore[place][valid]
    pictures = {}
    if anchors:
        all_levels = np.concatenate([np.asarray(level) for level in anchors])
        pictures["matches"] = draw_matches(image, all_levels, result.labels, gt_boxes, gt_ignore)
    pictures |= {
        "proposals": draw_proposals(
            image,
            rescale(result.proposals.boxes, result.original_hw, batch.image_hw[place]),
            result.proposals.scores,
            gt_boxes=gt_boxes,
            gt_ignore=gt_ignore,
        ),
    }
    if result.detections:
        hw = batch.image_hw[place]
        pictures["detections"] = _draw_detections(config, image, result.detections, hw)
    return pictures


def _draw_detections(
    config: ConfigDict, image: np.ndarray, found: ImageDetections, image_hw: np.ndarray
) -> np.ndarray:
    """Draws detections and what is annotated on the network's input."""
    assert found.hw is not None
    shown, original_hw = found.scores > _DRAWN_SCORE, np.array(found.hw)
    masks = gt_masks = None
    if found.masks is not None:
        masks = Masks(found.masks, *found.hw)[shown]
        gt_masks = None if found.gt_masks is None else Masks(found.gt_masks, *found.hw)
    return draw_detections(
        image,
        rescale(found.boxes[shown], original_hw, image_hw),
        found.scores[shown],
        found.labels[shown],
        config.box.class_names,
        masks=masks,
        gt_boxes=rescale(found.gt_boxes, original_hw, image_hw),
        gt_labels=found.gt_labels,
        gt_ignore=found.gt_ignore,
        gt_masks=gt_masks,
    )
