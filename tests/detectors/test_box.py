import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from rpn_jax.detectors.box import BoxStage, RegionTargets, detect
from rpn_jax.ops.boxes import encode_boxes
from rpn_jax.typing import GroundTruth, Proposals, Regions


def unused(levels, boxes):
    raise AssertionError


STAGE = BoxStage(pool=unused, targets=RegionTargets(batch_size_per_image=8))
KEY = jax.random.key(0)
GT = GroundTruth(
    boxes=np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60], [0, 0, 0, 0]], np.float32),
    valid=np.array([True, True, True, False]),
    ignore=np.array([False, False, True, False]),
    labels=np.array([3, 1, 2, 0]),
)


def proposals_of(boxes, valid=None):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    valid = np.ones(len(boxes), bool) if valid is None else np.asarray(valid)
    zeros = np.zeros(len(boxes), np.float32)
    return Proposals(boxes, zeros, valid, zeros.astype(np.int32))


def sample(boxes, valid=None, **targets):
    stage = BoxStage(pool=unused, targets=STAGE.targets._replace(**targets))
    return jax.jit(stage.sample)(KEY, proposals_of(boxes, valid), GT)


def test_the_order_of_the_proposals_does_not_decide_which_are_drawn():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (40, 2))
    found = proposals_of(np.concatenate([corners, corners + rng.uniform(4, 40, (40, 2))], axis=1))
    found = found._replace(anchor=rng.permutation(1000)[:40])
    swapped = Proposals(*(values[::-1] for values in found))
    draw = jax.jit(STAGE.sample)
    before, after = draw(KEY, found, GT), draw(KEY, swapped, GT)
    for name in ("boxes", "valid", "labels"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_a_region_has_the_class_of_the_object_that_it_covers():
    # IoU 0.8 with the first object, 0.49 with the second (a class of neither), 0 with all.
    regions = sample([[0, 0, 8, 10], [20, 20, 40, 29.8], [70, 70, 80, 80]], append_gt=False)
    assert regions.valid.tolist() == [True] * 3 + [False] * 5
    assert regions.labels.tolist() == [3, 0, 0] + [0] * 5
    assert regions.boxes[0].tolist() == [0, 0, 8, 10]
    assert sorted(regions.boxes[1:3].tolist())[1] == [70, 70, 80, 80]


def test_objects_are_regions_too_but_ignore_regions_and_padding_are_not():
    regions = sample([[70, 70, 80, 80]])
    assert sorted(regions.labels[regions.valid].tolist()) == [0, 1, 3]
    boxes = regions.boxes[regions.valid].tolist()
    assert [50, 50, 60, 60] not in boxes
    assert [0, 0, 0, 0] not in boxes


def test_a_proposal_inside_an_ignore_region_is_not_trained_on():
    inside, outside = [52, 52, 58, 58], [56, 50, 76, 60]  # 0.2 of the second lies in it
    regions = sample([inside, outside], append_gt=False)
    assert regions.boxes[regions.valid].tolist() == [outside]


def test_a_proposal_below_the_lowest_overlap_of_a_background_is_not_trained_on():
    # IoU 0.2 and 0.
    boxes = [[0, 0, 10, 2], [70, 70, 80, 80]]
    regions = sample(boxes, append_gt=False, lowest_bg_iou=0.1)
    assert regions.boxes[regions.valid].tolist() == [boxes[0]]


def test_padding_is_never_sampled():
    regions = sample([[0, 0, 10, 10], [70, 70, 80, 80]], [False, True], append_gt=False)
    assert regions.boxes[regions.valid].tolist() == [[70, 70, 80, 80]]


def test_at_most_the_fraction_is_positive_and_the_positives_come_first():
    rng = np.random.default_rng(0)
    near = np.array([0, 0, 10, 10]) + rng.uniform(-0.5, 0.5, (20, 4))
    far = np.array([70, 70, 90, 90]) + rng.uniform(-9, 9, (20, 4))
    regions = sample(np.concatenate([far, near]))
    assert regions.valid.all()
    assert (regions.labels > 0).tolist() == [True] * 2 + [False] * 6
    boxes = {tuple(box) for box in np.asarray(regions.boxes).tolist()}
    assert len(boxes) == 8  # nothing twice


def loss_reference(logits, deltas, regions, gt, count):
    """Sums over the sample, one region at a time, divided by the asked size of the sample."""
    entropy = box = 0.0
    for logit, delta, region, valid, label, index in zip(
        logits, deltas, regions.boxes, regions.valid, regions.labels, regions.gt_index, strict=True
    ):
        if not valid:
            continue
        entropy += np.log(np.exp(logit - logit.max()).sum()) + logit.max() - logit[label]
        if label > 0:
            target = np.asarray(encode_boxes(region, gt.boxes[index], (10, 10, 5, 5)))
            own = delta[label if len(delta) > 1 else 0]
            error = np.abs(own - target)
            box += np.where(error < 1, 0.5 * error**2, error - 0.5).sum()
    return entropy / count, box / count


@pytest.mark.parametrize("boxes", [4, 1])  # of each class, and one for all
def test_the_losses_are_sums_over_the_sample(boxes):
    rng = np.random.default_rng(1)
    regions = Regions(
        np.array([[0, 0, 8, 10], [22, 20, 40, 40], [70, 70, 80, 80], [0, 0, 0, 0]], np.float32),
        np.array([True, True, True, False]),
        np.array([3, 1, 0, 0]),
        np.array([0, 1, 0, 0]),
    )
    logits = rng.normal(size=(4, 4)).astype(np.float32)
    deltas = rng.normal(size=(4, boxes, 4)).astype(np.float32)
    loss, parts = jax.jit(STAGE.loss_of)(logits, deltas, regions, GT)
    expected = loss_reference(logits, deltas, regions, GT, 8)
    np.testing.assert_allclose((parts["loss_class"], parts["loss_class_box"]), expected, rtol=1e-5)
    np.testing.assert_allclose(loss, sum(expected), rtol=1e-5)
    assert (parts["sampled_objects"], parts["sampled_backgrounds"]) == (2, 1)


def test_what_is_not_sampled_has_no_gradient_even_where_the_network_is_infinite():
    regions = Regions(
        np.zeros((2, 4), np.float32), np.array([False, True]), np.zeros(2, int), np.zeros(2, int)
    )
    logits = np.array([[np.inf, np.nan, 0, 0], [0, 0, 0, 0]], np.float32)
    deltas = np.array([[np.inf] * 4, [np.nan] * 4], np.float32)[:, None]
    gradients = jax.grad(lambda *x: STAGE.loss_of(*x, regions, GT)[0], argnums=(0, 1))(
        logits, deltas
    )
    assert np.isfinite(gradients[0]).all()
    assert not np.asarray(gradients[1]).any()


# ---- detections -------------------------------------------------------------------------------


def detect_reference(logits, deltas, boxes, image_hw, *, threshold=0.05, nms=0.5, top_n=100):
    """Every box of every class, sorted, and greedy suppression one by one."""
    exp = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    scores = exp / exp.sum(1, keepdims=True)
    candidates = []
    for i, box in enumerate(boxes.astype(np.float64)):
        for label in range(1, logits.shape[1]):
            if scores[i, label] > threshold:
                delta = deltas[i, label if deltas.shape[1] > 1 else 0] / (10, 10, 5, 5)
                centre, side = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
                centre, side = centre + delta[:2] * side, side * np.exp(delta[2:])
                decoded = np.concatenate([centre - side / 2, centre + side / 2])
                decoded = np.clip(decoded, 0, [image_hw[1], image_hw[0]] * 2)
                candidates.append((-scores[i, label], i, label, decoded))
    kept = []
    for candidate in sorted(candidates, key=lambda c: c[:3]):
        same = [other[3] for other in kept if other[2] == candidate[2]]
        if not same or references.pairwise_iou(candidate[3][None], np.array(same)).max() <= nms:
            kept.append(candidate)
    return kept[:top_n]


def crowd(seed, count=60, classes=5):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 70, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], 1)
    logits = rng.normal(size=(count, classes), scale=2)
    deltas = rng.normal(size=(count, classes, 4))
    return logits.astype(np.float32), deltas.astype(np.float32), boxes.astype(np.float32)


@functools.partial(jax.jit, static_argnames=("max_candidates", "top_n", "min_size"))
def found_in(logits, deltas, boxes, valid, max_candidates=300, top_n=100, min_size=0.0):
    return detect(
        logits,
        deltas,
        boxes,
        valid,
        jnp.array([80.0, 100.0]),
        top_n=top_n,
        max_candidates=max_candidates,
        min_size=min_size,
    )


@pytest.mark.parametrize("agnostic", [False, True])
def test_detections_are_those_of_the_slow_way(agnostic):
    logits, deltas, boxes = crowd(0)
    deltas = deltas[:, :1] if agnostic else deltas
    found = found_in(logits, deltas, boxes, np.ones(60, bool))
    expected = detect_reference(logits, deltas, boxes, (80, 100))
    number = len(expected)
    assert 20 < number == found.valid.sum()
    assert found.labels[:number].tolist() == [label for _, _, label, _ in expected]
    np.testing.assert_allclose(found.scores[:number], [-score for score, *_ in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes[:number], [box for *_, box in expected], atol=1e-3)
    assert not np.asarray(found.boxes[number:]).any()
    assert not np.asarray(found.scores[number:]).any()
    assert found.overflow == 0


def test_padding_changes_nothing():
    logits, deltas, boxes = crowd(1)
    valid = np.arange(60) < 40
    junk = [np.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, 9) for x in (logits, deltas, boxes)]
    found = found_in(*junk, valid)
    expected = detect_reference(logits[:40], deltas[:40], boxes[:40], (80, 100))
    assert found.labels[found.valid].tolist() == [label for _, _, label, _ in expected]


def test_too_few_candidates_are_counted_where_they_matter():
    logits, deltas, boxes = crowd(2)
    valid = np.ones(60, bool)
    full = found_in(logits, deltas, boxes, valid)
    above = (jax.nn.softmax(logits)[:, 1:] > 0.05).sum()
    cut = found_in(logits, deltas, boxes, valid, max_candidates=30)
    assert cut.overflow == above - 30
    # The best of the candidates are the best of all: only the lowest are missing.
    number = int(cut.valid.sum())
    assert number < 30
    np.testing.assert_array_equal(cut.boxes[:number], full.boxes[:number])
    # Where the slots are full nothing is missing.
    few = found_in(logits, deltas, boxes, valid, max_candidates=30, top_n=5)
    assert few.overflow == 0
    np.testing.assert_array_equal(few.boxes, full.boxes[:5])


def test_small_boxes_go_before_they_take_a_candidates_place():
    logits, deltas, boxes = crowd(3)
    boxes[:30, 2:] = boxes[:30, :2] + 1
    found = found_in(logits, np.zeros_like(deltas), boxes, np.ones(60, bool), min_size=4.0)
    sides = found.boxes[found.valid][:, 2:] - found.boxes[found.valid][:, :2]
    assert (sides >= 4).all()
    large = detect_reference(logits[30:], np.zeros_like(deltas[30:]), boxes[30:], (80, 100))
    assert found.valid.sum() == len(large)


def test_a_batch_gives_what_each_image_gives():
    logits, deltas, boxes = (np.stack(x) for x in zip(crowd(4), crowd(5), strict=True))
    valid = np.ones((2, 60), bool)
    batch = jax.vmap(found_in)(logits, deltas, boxes, valid)
    for i in range(2):
        alone = found_in(logits[i], deltas[i], boxes[i], valid[i])
        np.testing.assert_array_equal(batch.labels[i], alone.labels)
        np.testing.assert_allclose(batch.boxes[i], alone.boxes, atol=1e-4)
