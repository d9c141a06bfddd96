import jax
import jax.numpy as jnp
import numpy as np

from rpn_jax.detectors.mask import MaskStage
from rpn_jax.typing import Detections, GroundTruth, Regions


def unused(levels, boxes):
    raise AssertionError


STAGE = MaskStage(pool=unused, max_objects=3)
BOX = [0, 0, 8, 8]
GT = GroundTruth(
    boxes=np.float32([[8, 8, 16, 16], BOX]),
    valid=np.array([True, True]),
    ignore=np.array([True, False]),
    labels=np.array([0, 1]),
    # The second object is the left half of its box.
    masks=np.stack([np.zeros((4, 4)), np.tile([255, 255, 0, 0], (4, 1))]).astype(np.uint8),
)
REGIONS = Regions(
    boxes=np.float32([BOX, [0, 0, 4, 8], [8, 0, 16, 8], [9, 9, 12, 12]]),
    valid=np.array([True, True, True, False]),
    labels=np.array([1, 1, 0, 0]),
    gt_index=np.array([1, 1, 0, 0]),
)
loss_of = jax.jit(STAGE.loss_of)


RIGHT, LEFT = np.float32([[0, 1]] * 2), np.float32([[1, 0]] * 2)


def test_a_regions_mask_is_that_of_its_object_within_it():
    sample = STAGE.sample(REGIONS)
    assert sample.valid.tolist() == [True, True, True]
    # Perfect, perfect, and of a background, which does not count.
    logits = 80 * np.stack([LEFT - RIGHT, LEFT + RIGHT, RIGHT])
    loss, parts = loss_of(logits, sample, GT)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert parts["mask_accuracy"] == 1
    # Of one of the two regions every cell is wrong, and costs its logit.
    logits = 80 * np.stack([RIGHT - LEFT, LEFT + RIGHT, RIGHT])
    loss, parts = loss_of(logits, sample, GT)
    np.testing.assert_allclose(loss, 80 / 2)
    assert parts["mask_accuracy"] == 0.5


def test_an_image_without_objects_costs_nothing():
    sample = STAGE.sample(REGIONS)._replace(labels=np.array([0, 0, 0]))
    loss, parts = loss_of(np.full((3, 2, 2), np.nan, np.float32), sample, GT)
    assert loss == parts["mask_accuracy"] == 0


def test_a_detection_has_a_mask_of_probabilities():
    zeros = np.zeros(2, np.float32)
    valid = np.array([True, False])
    found = Detections(np.zeros((2, 4), np.float32), zeros, np.array([2, 0]), valid, jnp.array(0))
    logits = np.full((2, 1, 1), np.log(3), np.float32)
    np.testing.assert_allclose(STAGE.paint(logits, found).masks[:, 0, 0], [0.75, 0], rtol=1e-6)
