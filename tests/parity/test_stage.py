"""The second stage, against torchvision's RoIHeads."""

import functools

import jax
import numpy as np
import pytest
from peer_cases import STAGE_CASES, STAGE_HW, peer_answers, stage_case

from rpn_jax.detectors.box import BoxStage, DetectionLimits, RegionTargets, detect
from rpn_jax.typing import GroundTruth, Proposals, Regions

ANSWERS = peer_answers("stage")
SLOTS = 200  # for all cases: one program


def answers(name):
    start = f"{name}/"
    return {key.removeprefix(start): x for key, x in ANSWERS.items() if key.startswith(start)}


def padded(array):
    return np.pad(array, ((0, SLOTS - len(array)), *[(0, 0)] * (array.ndim - 1)))


def stage_of(count):
    return BoxStage(
        pool=lambda levels, boxes: boxes,
        targets=RegionTargets(batch_size_per_image=count, positive_fraction=1.0, append_gt=False),
        beta=1 / 9,
    )


def ground_truth(case):
    flags = np.ones(len(case["objects"]), bool)
    return GroundTruth(case["objects"], flags, ~flags, case["labels"])


@pytest.mark.parametrize("name", STAGE_CASES)
def test_labels_of_proposals_are_torchvisions(name):
    case, theirs = stage_case(name), answers(name)
    boxes, zeros = padded(case["proposals"]), np.zeros(SLOTS, np.float32)
    valid = np.arange(SLOTS) < len(case["proposals"])
    regions = jax.jit(stage_of(SLOTS).sample)(
        jax.random.key(0), Proposals(boxes, zeros, valid, zeros.astype(int)), ground_truth(case)
    )
    ours = {
        tuple(box): (int(label), int(index))
        for box, label, index in zip(
            np.asarray(regions.boxes)[regions.valid].tolist(),
            np.asarray(regions.labels)[regions.valid],
            np.asarray(regions.gt_index)[regions.valid],
            strict=True,
        )
    }
    assert len(ours) == len(case["proposals"])
    assert set(theirs["labels"].tolist()) > {0}
    for box, label, index in zip(
        case["proposals"].tolist(), theirs["labels"], theirs["gt_index"], strict=True
    ):
        found = ours[tuple(box)]
        assert found[0] == label
        assert label == 0 or found[1] == index


@pytest.mark.parametrize("name", STAGE_CASES)
def test_losses_and_their_gradients_are_torchvisions(name):
    case, theirs = stage_case(name), answers(name)
    count = len(case["proposals"])
    regions = Regions(
        padded(case["proposals"]),
        np.arange(SLOTS) < count,
        padded(theirs["labels"]),
        padded(theirs["gt_index"]),
    )

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def loss_of(logits, deltas):
        return stage_of(count).loss_of(logits, deltas, regions, ground_truth(case))

    (_, parts), (d_logits, d_deltas) = loss_of(padded(case["logits"]), padded(case["deltas"]))
    np.testing.assert_allclose(parts["loss_class"], theirs["loss_class"], rtol=1e-6)
    np.testing.assert_allclose(parts["loss_class_box"], theirs["loss_box"], rtol=2e-6)
    for ours, expected in ((d_logits, theirs["d_logits"]), (d_deltas, theirs["d_deltas"])):
        scale = np.abs(expected).max()
        ours = np.asarray(ours).reshape(SLOTS, -1)
        np.testing.assert_allclose(ours[:count], expected, rtol=0, atol=1e-5 * scale)
        assert not ours[count:].any()


_detect = jax.jit(
    functools.partial(detect, **DetectionLimits(min_size=0.01, max_candidates=1000)._asdict())
)


@pytest.mark.parametrize("name", STAGE_CASES)
def test_detections_are_torchvisions_in_their_order(name):
    case, theirs = stage_case(name), answers(name)
    found = _detect(
        padded(case["logits"]),
        padded(case["deltas"]),
        padded(case["proposals"]),
        np.arange(SLOTS) < len(case["proposals"]),
        np.float32(STAGE_HW),
    )
    number = len(theirs["scores"])
    assert found.valid.sum() == number
    assert (number == 0) == (name == "empty")
    np.testing.assert_array_equal(found.labels[:number], theirs["found"])
    np.testing.assert_allclose(found.scores[:number], theirs["scores"], rtol=1e-5)
    np.testing.assert_allclose(found.boxes[:number], theirs["boxes"], rtol=0, atol=1e-3)
