"""The pictures of an evaluation: of the network's input, with what was found and annotated."""

import numpy as np
import pytest
from training.small import small_detector_config, small_mask_config

from rpn_jax.data.loader import Batch
from rpn_jax.data.masks import encode
from rpn_jax.evaluation.detections import ImageDetections
from rpn_jax.evaluation.recall import ImageProposals
from rpn_jax.ops.matching import Label
from rpn_jax.training.build import build_detector
from rpn_jax.training.evaluate import ImageResult
from rpn_jax.training.pictures import image_pictures

HW = (24, 32)  # of the original, half as large as the network's input
BOXES = np.float32([[2, 2, 12, 12], [18, 8, 30, 20]])
MASK = np.zeros(HW, bool)
MASK[4:10, 4:10] = True


def result(detector, masks):
    image = np.full((1, 48, 64, 3), 100, np.uint8)
    anchors = sum(map(len, detector.anchors(48, 64)))
    given, scores = np.zeros((1, 0, 4), np.float32), np.zeros((1, 0), np.float32)
    valid, labels = np.ones((1, 2), bool), np.int32([[1, 2]])
    batch = Batch(
        image, np.float32([[48, 64]]), 2 * BOXES[None], valid, ~valid, labels,
        given, scores, scores > 0, np.zeros(1, np.int64), valid[:, 0],
    )  # fmt: skip
    annotated = BOXES, np.zeros(2, bool), np.float32([100, 144])
    proposals = ImageProposals(1, BOXES, np.float32([0.9, 0.8]), *annotated)
    found = ImageDetections(
        1, BOXES, np.float32([0.9, 0.2]), np.array([0, 1]), BOXES, np.array([0, 1]), *annotated[1:],
        [encode(MASK)] * 2 if masks else None, [b"", b""] if masks else None, HW,
    )  # fmt: skip
    ignored = np.full(anchors, Label.IGNORE)
    return ImageResult(0, proposals, found, np.array([0, 1]), np.array(HW), {}, batch, 0, ignored)


@pytest.mark.parametrize("make", [small_detector_config, small_mask_config])
def test_detections_are_drawn_with_masks_where_there_are_any(make):
    config = make()
    detector = build_detector(config)
    pictures = image_pictures(config, detector, result(detector, masks="mask" in config))
    assert set(pictures) == {"matches", "proposals", "detections"}
    drawn = pictures["detections"]
    scale = drawn.shape[1] / HW[1]
    inside = drawn[round(8 * scale), round(8 * scale)]
    assert (inside != 100).any() == ("mask" in config)
    # The second is below the score that is drawn; it has a dashed outline alone.
    assert (drawn[round(14 * scale), round(24 * scale)] == 100).all()
