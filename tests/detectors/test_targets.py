import functools

import jax
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st

from rpn_jax.detectors.targets import assign_targets
from rpn_jax.ops.anchors import cell_anchors, grid_anchors
from rpn_jax.ops.boxes import decode_boxes
from rpn_jax.ops.matching import Label
from rpn_jax.typing import GroundTruth

IMAGE_HW = np.array([96, 128], np.float32)
ANCHORS = np.asarray(grid_anchors(cell_anchors((24, 48)), (6, 8), (16, 16)))


def ground_truth_of(boxes, ignore=None, slots=4, junk=0.0):
    count = len(boxes)
    padded = np.full((slots, 4), junk, np.float32)
    padded[:count] = np.reshape(boxes, (count, 4))
    flags = np.zeros(slots, bool)
    flags[:count] = False if ignore is None else ignore
    return GroundTruth(padded, np.arange(slots) < count, flags)


OBJECTS = ground_truth_of([[20, 20, 44, 44], [60, 30, 110, 75]])
KEY = jax.random.key(0)
# One mini-batch size for all, small enough to leave some out, and few programs to compile.
_assign = jax.jit(
    functools.partial(assign_targets, batch_size_per_image=16),
    static_argnames=("drop_straddling", "straddle_tolerance", "positive_fraction", "box_weights"),
)


def inside(anchors, height, width):
    return (anchors >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)


def test_labels_are_those_of_the_anchors_inside_the_image():
    matches = _assign(KEY, ANCHORS, OBJECTS, IMAGE_HW).matches
    takes_part = inside(ANCHORS, 96, 128)
    assert takes_part.any()
    assert not takes_part.all()
    expected, index, _ = references.match(ANCHORS, OBJECTS.boxes[:2], takes_part=takes_part)
    np.testing.assert_array_equal(matches.labels, expected)
    positive = expected == Label.POSITIVE
    np.testing.assert_array_equal(matches.gt_index[positive], index[positive])
    assert set(index[positive]) == {0, 1}


def test_an_object_gets_the_best_of_the_anchors_that_are_kept():
    # Far in the corner: its best anchor of all straddles the border.
    corner = ground_truth_of([[0, 0, 20, 20]])
    kept = _assign(KEY, ANCHORS, corner, IMAGE_HW)
    everything = _assign(KEY, ANCHORS, corner, IMAGE_HW, drop_straddling=False)
    best_kept = kept.matches.labels == Label.POSITIVE
    best_of_all = everything.matches.labels == Label.POSITIVE
    assert best_kept.any()
    assert inside(ANCHORS[best_kept], 96, 128).all()
    assert not inside(ANCHORS[best_of_all], 96, 128).all()
    assert kept.matches.iou[best_kept].max() < everything.matches.iou[best_of_all].max()


@pytest.mark.parametrize("drop_straddling", [True, False])
def test_anchors_may_cross_the_border_but_not_start_in_the_padding(drop_straddling):
    # The two ways to let every anchor cross the border.
    labels = _assign(
        KEY,
        ANCHORS,
        ground_truth_of([]),
        np.array([50, 60], np.float32),
        drop_straddling=drop_straddling,
        straddle_tolerance=1000.0,
    ).matches.labels
    centres = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
    np.testing.assert_array_equal(labels == Label.NEGATIVE, (centres <= [60, 50]).all(axis=1))
    np.testing.assert_array_equal(labels == Label.IGNORE, (centres > [60, 50]).any(axis=1))


@pytest.mark.parametrize("drop_straddling", [True, False])
def test_the_canvas_an_image_lies_in_changes_nothing(drop_straddling):
    # The same image alone, and in the corner of a canvas with two more rows of positions. The
    # anchor order is by row: the first ones are the same.
    larger = np.asarray(grid_anchors(cell_anchors((24, 48)), (8, 8), (16, 16)))
    assign = functools.partial(_assign, drop_straddling=drop_straddling)
    plain = assign(KEY, ANCHORS, OBJECTS, IMAGE_HW)
    padded = assign(KEY, larger, OBJECTS, IMAGE_HW)
    np.testing.assert_array_equal(padded.labels[: len(ANCHORS)], plain.labels)
    np.testing.assert_array_equal(padded.deltas[: len(ANCHORS)], plain.deltas)
    assert (padded.labels[len(ANCHORS) :] == Label.IGNORE).all()
    assert (padded.matches.labels[len(ANCHORS) :] == Label.IGNORE).all()


def test_the_mini_batch_is_drawn_from_the_matches():
    targets = _assign(KEY, ANCHORS, OBJECTS, IMAGE_HW)
    sampled = targets.labels != Label.IGNORE
    assert sampled.sum() == 16
    np.testing.assert_array_equal(targets.labels[sampled], targets.matches.labels[sampled])
    other = _assign(jax.random.key(1), ANCHORS, OBJECTS, IMAGE_HW)
    assert (other.labels != targets.labels).any()
    no_positives = _assign(KEY, ANCHORS, OBJECTS, IMAGE_HW, positive_fraction=0.0)
    assert not (no_positives.labels == Label.POSITIVE).any()


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_deltas_turn_positive_anchors_into_their_objects(weights):
    targets = _assign(KEY, ANCHORS, OBJECTS, IMAGE_HW, box_weights=weights)
    positive = np.asarray(targets.labels == Label.POSITIVE)
    decoded = decode_boxes(ANCHORS, targets.deltas, weights)
    expected = OBJECTS.boxes[targets.matches.gt_index]
    np.testing.assert_allclose(decoded[positive], expected[positive], atol=1e-3)
    np.testing.assert_array_equal(targets.deltas[~positive], 0)


def test_an_ignore_region_gives_neither_positives_nor_negatives():
    region = ground_truth_of([[20, 20, 44, 44], [60, 0, 128, 96]], ignore=[False, True])
    labels = np.asarray(_assign(KEY, ANCHORS, region, IMAGE_HW).matches.labels)
    within = references.pairwise_ioa(ANCHORS, region.boxes[1:2])[:, 0] > 0.5
    assert (labels[within] == Label.IGNORE).all()
    assert (labels == Label.POSITIVE).any()
    assert (labels == Label.NEGATIVE).any()


def test_an_image_without_objects_is_all_background():
    targets = _assign(KEY, ANCHORS, ground_truth_of([]), IMAGE_HW)
    assert (targets.labels == Label.NEGATIVE).sum() == 16
    assert not (targets.labels == Label.POSITIVE).any()
    np.testing.assert_array_equal(targets.deltas, 0)


def test_a_batch_is_its_images():
    keys = jax.random.split(KEY, 2)
    truths = [OBJECTS, ground_truth_of([[5, 5, 60, 60]])]
    sizes = np.array([[96, 128], [80, 100]], np.float32)
    stacked = jax.tree.map(lambda *x: np.stack(x), *truths)
    batched = jax.vmap(_assign, (0, None, 0, 0))(keys, ANCHORS, stacked, sizes)
    for i in range(2):
        single = _assign(keys[i], ANCHORS, truths[i], sizes[i])
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(batched), strict=True):
            np.testing.assert_allclose(b[i], a, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.sampled_from([0.0, 50.0, 1e9, float("nan"), float("inf")]))
def test_what_padded_slots_hold_changes_nothing(count, junk):
    boxes = references.random_boxes(np.random.default_rng(count), count, 60, 60)
    clean = _assign(KEY, ANCHORS, ground_truth_of(boxes), IMAGE_HW)
    dirty = _assign(KEY, ANCHORS, ground_truth_of(boxes, junk=junk), IMAGE_HW)
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(b, a)
        assert np.isfinite(b).all()
