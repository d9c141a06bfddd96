import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rpn_jax.ops.boxes import box_columns, iou, pairwise_iou
from rpn_jax.ops.matching import Label, match_anchors
from rpn_jax.ops.overlaps import overlaps_at_once, overlaps_by_object
from rpn_jax.typing import Matches

SQUARE = np.array([[0, 0, 10, 10]], np.float32)


_match = jax.jit(
    match_anchors,
    static_argnames=(
        "fg_iou_threshold",
        "bg_iou_threshold",
        "allow_low_quality",
        "ignore_ioa_threshold",
    ),
)
_match_at_half = functools.partial(_match, fg_iou_threshold=0.5, bg_iou_threshold=0.5)


def squares(*widths):
    """Anchors of height 10 in the corner: the IoU of width w <= 10 with SQUARE is w / 10."""
    return np.array([[0, 0, width, 10] for width in widths], np.float32)


def test_labels_are_ordered_so_that_a_maximum_prefers_a_say():
    assert Label.IGNORE < Label.NEGATIVE < Label.POSITIVE


def test_thresholds_are_reached_from_above_and_missed_from_below():
    # IoU 1, 0.75 (reaches 0.75), 0.5 (between), 0.25 (reaches 0.25), 0.125 (below).
    matches = _match(
        squares(10, 7.5, 5, 2.5, 1.25),
        SQUARE,
        np.array([True]),
        fg_iou_threshold=0.75,
        bg_iou_threshold=0.25,
        allow_low_quality=False,
    )
    np.testing.assert_array_equal(matches.labels, [1, 1, -1, -1, 0])
    np.testing.assert_allclose(matches.iou, [1, 0.75, 0.5, 0.25, 0.125])


def test_low_quality_makes_every_best_anchor_positive_ties_included():
    anchors = squares(2, 5, 5, 4)
    matches = _match(anchors, SQUARE, np.array([True]))
    np.testing.assert_array_equal(matches.labels, [0, 1, 1, -1])
    strict = _match(anchors, SQUARE, np.array([True]), allow_low_quality=False)
    np.testing.assert_array_equal(strict.labels, [0, -1, -1, -1])


def test_a_low_quality_positive_regresses_to_the_object_it_overlaps_most():
    anchors = np.array([[0, 0, 10, 10]], np.float32)
    gt_boxes = np.array([[0, 0, 2, 10], [0, 0, 10, 9]], np.float32)
    matches = _match(anchors, gt_boxes, np.array([True, True]))
    assert matches.labels[0] == Label.POSITIVE
    assert matches.gt_index[0] == 1


def test_an_object_out_of_reach_makes_nothing_positive():
    far = np.array([[500, 500, 510, 510]], np.float32)
    matches = _match(squares(10, 5), far, np.array([True]))
    np.testing.assert_array_equal(matches.labels, [0, 0])
    zero_thresholds = _match(
        squares(10, 5), far, np.array([True]), fg_iou_threshold=0, bg_iou_threshold=0
    )
    assert not (zero_thresholds.labels == Label.POSITIVE).any()


def test_all_padding_makes_everything_negative_whatever_the_boxes_hold():
    for box in (SQUARE, SQUARE * np.nan, SQUARE * 0):
        matches = _match(squares(10, 5), box, np.array([False]))
        np.testing.assert_array_equal(matches.labels, [0, 0])
        np.testing.assert_array_equal(matches.iou, [0, 0])


def test_no_anchors():
    matches = _match(np.zeros((0, 4), np.float32), SQUARE, np.array([True]))
    assert matches.labels.shape == matches.gt_index.shape == matches.iou.shape == (0,)


def test_an_ignore_region_is_no_object_and_silences_negatives_inside_it():
    gt_boxes = np.array([[0, 0, 10, 10], [0, 0, 100, 100]], np.float32)
    anchors = np.array(
        [
            [0, 0, 10, 10],  # the object, inside the region: stays positive
            [50, 50, 60, 60],  # wholly inside the region
            [90, 0, 110, 10],  # half inside: not more than 0.5
            [95, 0, 115, 10],  # a quarter inside
            [0, 0, 100, 100],  # the region itself
        ],
        np.float32,
    )
    matches = _match(anchors, gt_boxes, np.array([True, True]), gt_ignore=np.array([False, True]))
    np.testing.assert_array_equal(matches.labels, [1, -1, 0, 0, -1])
    stricter = _match(
        anchors,
        gt_boxes,
        np.array([True, True]),
        gt_ignore=np.array([False, True]),
        ignore_ioa_threshold=0.2,
    )
    np.testing.assert_array_equal(stricter.labels, [1, -1, -1, -1, -1])
    # A slot that is not valid is padding, also when it says "ignore".
    padded = _match(anchors, gt_boxes, np.array([True, False]), gt_ignore=np.array([False, True]))
    np.testing.assert_array_equal(padded.labels, [1, 0, 0, 0, 0])


def test_an_excluded_anchor_is_ignored_and_leaves_the_object_to_the_next_best():
    matches = _match(
        squares(10, 5, 2), SQUARE, np.array([True]), anchor_valid=np.array([False, True, True])
    )
    np.testing.assert_array_equal(matches.labels, [-1, 1, 0])
    none = _match(squares(10, 5, 2), SQUARE, np.array([True]), anchor_valid=np.zeros(3, bool))
    np.testing.assert_array_equal(none.labels, [-1, -1, -1])


@pytest.mark.parametrize("thresholds", [(0.3, 0.7), (1.5, 0.3), (0.7, -0.1)])
def test_thresholds_out_of_order_are_refused(thresholds):
    fg, bg = thresholds
    with pytest.raises(ValueError, match="bg_iou_threshold"):
        match_anchors(SQUARE, SQUARE, np.array([True]), fg_iou_threshold=fg, bg_iou_threshold=bg)


@pytest.mark.parametrize("low_quality", [True, False])
def test_equals_the_reference_eager_jitted_and_batched(low_quality):
    rng = np.random.default_rng(1)
    batch, expected = [], []
    for _ in range(3):
        # Integer coordinates, for exact IoUs and many ties.
        anchors = np.round(references.random_boxes(rng, 60, 20, 30))
        gt_boxes = np.round(references.random_boxes(rng, 6, 20, 30))
        valid = np.array([True, True, False, True, True, False])
        ignore = np.array([False, False, False, True, False, True])
        takes_part = rng.random(60) < 0.8
        batch.append((anchors, gt_boxes, valid, ignore, takes_part))
        labels, index, iou = references.match(
            anchors,
            gt_boxes[valid & ~ignore],
            gt_boxes[valid & ignore],
            0.5,
            0.2,
            low_quality,
            takes_part=takes_part,
        )
        expected.append((labels, np.flatnonzero(valid & ~ignore)[index], iou))

    def match(anchors, gt_boxes, valid, ignore, takes_part):
        return match_anchors(
            anchors,
            gt_boxes,
            valid,
            fg_iou_threshold=0.5,
            bg_iou_threshold=0.2,
            allow_low_quality=low_quality,
            gt_ignore=ignore,
            anchor_valid=takes_part,
        )

    columns = [np.stack(column) for column in zip(*batch, strict=True)]
    batched = zip(*jax.jit(jax.vmap(match))(*columns), strict=True)
    jitted = jax.jit(match)
    for image, in_batch, (labels, index, iou) in zip(batch, batched, expected, strict=True):
        assert set(labels[image[-1]].tolist()) == {-1, 0, 1}
        for result in (match(*image), jitted(*image), Matches(*in_batch)):
            np.testing.assert_array_equal(result.labels, labels)
            np.testing.assert_allclose(result.iou, iou, rtol=1e-6)
            positive = labels == Label.POSITIVE
            np.testing.assert_array_equal(result.gt_index[positive], index[positive])


def grid_boxes(count):
    return hnp.arrays(np.float32, (count, 4), elements=st.integers(0, 12))


@settings(max_examples=25, deadline=None)
@given(grid_boxes(10), grid_boxes(3), grid_boxes(4))
def test_padding_changes_nothing(anchors, gt_boxes, junk):
    plain = _match_at_half(anchors, gt_boxes, np.ones(3, bool), gt_ignore=np.zeros(3, bool))
    padded = _match_at_half(
        anchors,
        np.concatenate([gt_boxes, junk]),
        np.arange(7) < 3,
        gt_ignore=np.arange(7) >= 5,
    )
    for before, after in zip(plain, padded, strict=True):
        np.testing.assert_array_equal(before, after)


@settings(max_examples=25, deadline=None)
@given(grid_boxes(10), grid_boxes(3))
def test_every_object_that_is_touched_has_a_positive_anchor(anchors, gt_boxes):
    labels = _match_at_half(anchors, gt_boxes, np.ones(3, bool), gt_ignore=np.zeros(3, bool)).labels
    overlaps = references.pairwise_iou(anchors, gt_boxes)
    for overlap in overlaps.T:
        if overlap.max() > 0:
            assert (np.asarray(labels)[overlap >= overlap.max() - 1e-6] == Label.POSITIVE).any()


@functools.partial(jax.jit, static_argnames="low_quality")
def both_forms(anchors, gt_boxes, is_object, is_region, anchor_valid, low_quality):
    """What accelerators run and what CPUs run."""
    options = {"low_quality": low_quality, "ioa_threshold": 0.3}
    return [
        form(anchors, gt_boxes, is_object, is_region, anchor_valid, **options)
        for form in (overlaps_at_once, overlaps_by_object)
    ]


# One row of anchors and several, a part of a group of objects and several, of which none, some or
# the last are used.
@pytest.mark.parametrize(("count", "slots"), [(3, 1), (2500, 11)])
@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("optional", [True, False])
def test_the_forms_for_accelerators_and_for_cpus_are_equal(count, slots, low_quality, optional):
    rng = np.random.default_rng(3)
    # Off the grid, where products round; and many copies, so that there are ties.
    anchors = references.random_boxes(rng, count, 60, 50)[rng.integers(0, count, count)]
    gt_boxes = references.random_boxes(rng, slots, 60, 50)
    anchors[rng.random(count) < 0.1] = 5
    gt_boxes[1::4] = np.nan
    takes_part = rng.random(count) < 0.8
    slot = np.arange(slots)
    for valid in (slot < 0, slot < slots - 2, slot >= 0):
        region = slot % 3 == 2
        at_once, by_object = both_forms(
            anchors,
            gt_boxes,
            valid & ~region,
            valid & region if optional else None,
            takes_part if optional else None,
            low_quality,
        )
        jax.tree.map(np.testing.assert_array_equal, by_object, at_once)
        assert slots == 1 or at_once.is_best.any() == (low_quality and valid[0])


@settings(max_examples=25, deadline=None)
@given(grid_boxes(9), grid_boxes(5), hnp.arrays(bool, 5), hnp.arrays(bool, 9))
def test_the_two_forms_are_equal_on_small_grids(anchors, gt_boxes, valid, takes_part):
    at_once, by_object = both_forms(anchors, gt_boxes, valid, ~valid, takes_part, True)
    jax.tree.map(np.testing.assert_array_equal, by_object, at_once)


def test_an_iou_is_the_same_to_the_bit_wherever_it_is_computed():
    # In a matrix, in a vector, and its maximum alone: three loops, which the compiler may round
    # differently where a product and a sum become one instruction.
    rng = np.random.default_rng(4)
    anchors, gt_boxes = (references.random_boxes(rng, n, 100, 80) for n in (3000, 8))
    a, b = np.float64(anchors)[:, None], np.float64(gt_boxes)[None]
    step = np.float32  # each operation rounded by itself
    width, height = (
        step(step(np.minimum(a[..., i + 2], b[..., i + 2])) - np.maximum(a[..., i], b[..., i]))
        for i in range(2)
    )
    common = np.where((width > 0) & (height > 0), width * height, step(0))
    areas = [step(step(x[..., 2] - x[..., 0]) * step(x[..., 3] - x[..., 1])) for x in (a, b)]
    expected = common / (areas[0] + areas[1] - common)

    matrix = jax.jit(pairwise_iou)(anchors, gt_boxes)
    vectors = [
        jax.jit(lambda a, b: iou(box_columns(a), box_columns(b)))(anchors, b) for b in gt_boxes
    ]
    best = jax.jit(lambda a, b: pairwise_iou(a, b).max(axis=0))(anchors, gt_boxes)
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(np.stack(vectors, axis=1), expected)
    np.testing.assert_array_equal(best, expected.max(axis=0))


def test_gradient_through_the_iou_is_finite_at_padding():
    gradient = jax.grad(
        lambda anchors: _match(anchors, jnp.zeros((2, 4)), jnp.zeros(2, bool)).iou.sum()
    )(squares(10, 0))
    assert np.isfinite(gradient).all()
