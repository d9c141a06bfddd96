import jax
import numpy as np
import pytest
from peer_cases import matched_boxes, peer_answers

from rpn_jax.ops.matching import Label, match_anchors

ANSWERS = peer_answers("matching")
CASES = matched_boxes()
SLOTS = 64  # of ground truth, for all cases: one program
UNREACHED = ("one_object_and_one_out_of_reach", "one_object_and_one_without_area")

_match = jax.jit(
    match_anchors, static_argnames=("fg_iou_threshold", "bg_iou_threshold", "allow_low_quality")
)


def match(name):
    anchors, boxes, options = CASES[name]
    padded = np.concatenate([boxes, np.zeros((SLOTS - len(boxes), 4), np.float32)])
    return _match(anchors, padded, np.arange(SLOTS) < len(boxes), **options)


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNREACHED])
def test_labels_and_objects_are_torchvisions(name):
    matches = match(name)
    labels = ANSWERS[f"{name}/labels"]
    np.testing.assert_array_equal(matches.labels, labels)
    objects = CASES[name][1][matches.gt_index[labels == Label.POSITIVE]]
    np.testing.assert_array_equal(objects, ANSWERS[f"{name}/matched"])


@pytest.mark.parametrize(
    ("name", "positive", "negative"),
    [
        ("ties", 8 + 2, None),
        ("at_the_thresholds", 31, 30),  # IoUs of 0.70 to 1.00, and of 0.00 to 0.29
        ("at_equal_thresholds", 51, 50),
        ("no_objects", 0, 1152),
    ],
)
def test_the_cases_are_what_their_names_say(name, positive, negative):
    labels = ANSWERS[f"{name}/labels"]
    assert (labels == Label.POSITIVE).sum() == positive
    assert negative is None or (labels == Label.NEGATIVE).sum() == negative


@pytest.mark.parametrize("name", UNREACHED)
def test_an_object_that_no_anchor_touches_makes_none_positive_here_alone(name):
    # Its best IoU is 0, which torchvision finds in every anchor.
    assert (ANSWERS[f"{name}/labels"] == Label.POSITIVE).mean() > 0.9
    np.testing.assert_array_equal(match(name).labels, ANSWERS["one_object/labels"])
