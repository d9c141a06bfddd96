import jax
import numpy as np
import pytest
from peer_cases import peer_answers, suppressed_boxes

from rpn_jax.ops.nms import batched_nms, nms

ANSWERS = peer_answers("nms")
CASES = suppressed_boxes()
SLOTS = 2000  # for all cases: one program for each threshold

_nms = jax.jit(nms, static_argnums=(2, 3))


def kept_of(name):
    boxes, scores, threshold = CASES[name]
    empty = SLOTS - len(boxes)
    indices, valid = _nms(
        np.pad(boxes, ((0, empty), (0, 0))),
        np.pad(scores, (0, empty)),
        threshold,
        SLOTS,
        np.arange(SLOTS) < len(boxes),
    )
    return np.asarray(indices)[np.asarray(valid)]


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("at_0.3", "not_finite")])
def test_indices_are_torchvisions(name):
    np.testing.assert_array_equal(kept_of(name), ANSWERS[f"{name}/kept"])


def test_indices_of_groups_are_torchvisions():
    boxes, scores, threshold = CASES["random_0.5"]
    group = np.arange(len(boxes), dtype=np.int32) % 5
    indices, valid = batched_nms(boxes, scores, group, threshold, len(boxes))
    np.testing.assert_array_equal(indices[valid], ANSWERS["groups/kept"])


def test_an_iou_equal_to_the_threshold_suppresses_there_where_float32_rounds_up():
    # torchvision compares a float32 IoU with a float64 threshold: float32(0.3) > 0.3. Here both
    # are float32, and equal.
    assert float(np.float32(0.3)) > 0.3
    np.testing.assert_array_equal(ANSWERS["at_0.3/kept"], [0])
    np.testing.assert_array_equal(kept_of("at_0.3"), [0, 1])


def test_a_score_that_is_not_a_number_or_minus_infinity_is_a_candidate_there_alone():
    np.testing.assert_array_equal(ANSWERS["not_finite/kept"], [2, 3, 0, 1])
    np.testing.assert_array_equal(kept_of("not_finite"), [3, 0])
