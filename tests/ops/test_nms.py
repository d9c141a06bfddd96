import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rpn_jax.ops.nms import batched_nms, nms, sorted_nms
from rpn_jax.ops.suppression import suppress_at_once, suppress_in_vectors


def kept_indices(result):
    """The valid indices; the padding is checked on the way."""
    indices, valid = (np.asarray(x) for x in result)
    count = valid.sum()
    np.testing.assert_array_equal(valid, np.arange(len(valid)) < count)
    np.testing.assert_array_equal(indices[count:], 0)
    return indices[:count].tolist()


_batched_nms = jax.jit(batched_nms, static_argnums=(3, 4))


def keep(boxes, scores, threshold=0.5, places=5, valid=None, group=None):
    """The indices that are kept of up to 5 boxes (padded to 5, so that few programs compile)."""
    count = len(boxes)
    padded = [
        np.zeros((5, 4), np.float32),
        np.zeros(5, np.float32),
        np.zeros(5, np.int32),
        np.zeros(5, bool),
    ]
    group = np.zeros(count, np.int32) if group is None else group
    valid = np.ones(count, bool) if valid is None else valid
    for array, values in zip(padded, (boxes, scores, group, valid), strict=True):
        array[:count] = values
    boxes, scores, group, valid = padded
    return kept_indices(_batched_nms(boxes, scores, group, threshold, places, valid))


def row(*starts, width=10):
    """Boxes of 10 x 10 pixels side by side: a shift of s gives an IoU of (10 - s) / (10 + s)."""
    return np.array([[x, 0, x + width, 10] for x in starts], np.float32)


def test_a_suppressed_box_suppresses_nothing():
    # IoU of neighbours: 8/12 = 0.67; of the first and third: 6/14 = 0.43.
    assert keep(row(0, 2, 4), [0.9, 0.8, 0.7]) == [0, 2]


def test_an_iou_at_the_threshold_is_kept():
    half = [[0, 0, 10, 10], [0, 0, 5, 10]]  # IoU 0.5 exactly
    assert keep(half, [0.9, 0.8]) == [0, 1]
    assert keep(half, [0.9, 0.8], threshold=0.49) == [0]


def test_the_output_is_by_falling_score_and_cut_to_the_best():
    boxes, scores = row(0, 100, 200, 300), [0.1, 0.4, 0.3, 0.2]
    assert keep(boxes, scores) == [1, 2, 3, 0]
    assert keep(boxes, scores, places=2) == [1, 2]


def test_of_equal_scores_the_lower_index_comes_first():
    assert keep(row(50, 0, 1, 50), [1, 1, 1, 1]) == [0, 1]


def test_candidates_that_are_not_valid_neither_stay_nor_suppress():
    boxes, scores = row(0, 1, 100, 200), [np.nan, 0.5, -np.inf, np.inf]
    assert keep(boxes, scores) == [3, 1]
    assert keep(boxes, scores, valid=[True, True, True, False]) == [1]
    assert keep(boxes, scores, valid=[False] * 4) == []


def test_boxes_without_area_neither_suppress_nor_are_suppressed():
    boxes = [[5, 5, 5, 5], [0, 0, 10, 10], [5, 5, 5, 5], [9, 9, 1, 1]]
    assert keep(boxes, [0.9, 0.8, 0.7, 0.6]) == [0, 1, 2, 3]


def test_no_boxes():
    assert kept_indices(nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5, 3)) == []


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_that_is_no_iou_is_refused(threshold):
    with pytest.raises(ValueError, match="iou_threshold"):
        nms(row(0), np.ones(1, np.float32), threshold, 1)


def test_groups_do_not_suppress_each_other_and_compete_for_the_places():
    boxes, scores, group = row(0, 0, 1, 1, 100), [0.9, 0.8, 0.7, 0.6, 0.5], [0, 7, 0, 7, -3]
    assert keep(boxes, scores, group=group) == [0, 1, 4]
    assert keep(boxes, scores, group=group, places=2) == [0, 1]


def test_groups_are_told_apart_at_any_coordinates():
    # Steps of 1/16 pixel, the finest that float32 has here: IoU 7/9 and 4/12. To move the groups
    # apart by 99 times the largest coordinate would round them away.
    boxes = row(2.0**19, 2.0**19 + 0.0625, 2.0**19 + 0.25, width=0.5)
    assert keep(boxes, [0.9, 0.8, 0.7], group=[99, 99, 99]) == [0, 2]


@pytest.mark.parametrize("max_outputs", [5, 1300])
def test_equals_the_greedy_reference_over_several_blocks(max_outputs):
    rng = np.random.default_rng(0)
    boxes = references.random_boxes(rng, 1300, extent=120)
    scores = np.round(rng.random(1300), 2).astype(np.float32)  # with ties
    group = rng.integers(0, 2, 1300)
    valid = rng.random(1300) < 0.9
    expected = references.nms(boxes, scores, 0.5, max_outputs, valid, group)
    result = _batched_nms(boxes, scores, group, 0.5, max_outputs, valid)
    assert kept_indices(result) == expected


def test_one_chain_through_all_the_boxes_of_three_blocks():
    # Each box suppresses the next one only (IoU 7/13 and 4/16), so that every other one stays.
    boxes, scores = row(*range(0, 3600, 3)), np.linspace(1, 0, 1200).astype(np.float32)
    result = _batched_nms(boxes, scores, np.zeros(1200, np.int32), 0.5, 1200)
    assert kept_indices(result) == list(range(0, 1200, 2))


def test_eager_jitted_and_batched_agree():
    rng = np.random.default_rng(1)
    boxes = np.stack([references.random_boxes(rng, 60, extent) for extent in (10, 300)])
    scores = rng.random((2, 60)).astype(np.float32)
    suppress = functools.partial(nms, iou_threshold=0.4, max_outputs=20)
    batched = jax.jit(jax.vmap(suppress))(boxes, scores)
    for i in range(2):
        expected = references.nms(boxes[i], scores[i], 0.4, 20)
        assert kept_indices(x[i] for x in batched) == expected
    assert kept_indices(suppress(boxes[1], scores[1])) == expected
    assert kept_indices(jax.jit(suppress)(boxes[1], scores[1])) == expected


_suppress = jax.jit(functools.partial(nms, iou_threshold=0.5, max_outputs=10))


def grid_boxes(count):
    return hnp.arrays(np.float32, (count, 4), elements=st.integers(0, 9))


@settings(max_examples=25, deadline=None)
@given(grid_boxes(10), hnp.arrays(np.float32, 10, elements=st.integers(0, 5)), grid_boxes(5))
def test_padding_changes_nothing(boxes, scores, junk):
    plain = kept_indices(_suppress(boxes, scores))
    assert plain == references.nms(boxes, scores, 0.5, 10)
    padded = _suppress(
        np.concatenate([boxes, junk]),
        np.concatenate([scores, np.full(5, 9, np.float32)]),
        valid=np.arange(15) < 10,
    )
    assert kept_indices(padded) == plain


@functools.partial(jax.jit, static_argnames=("places", "with_groups"))
def both_forms(boxes, valid, group, places, with_groups):
    """What accelerators run and what CPUs run, on the same sorted boxes."""
    return [
        form(boxes, valid, group if with_groups else None, iou_threshold=0.5, places=places)
        for form in (suppress_at_once, suppress_in_vectors)
    ]


# Fewer boxes than a block of either form, and several of both; a place for each, and fewer.
@pytest.mark.parametrize(("count", "places"), [(3, 3), (1100, 1100), (1100, 90)])
@pytest.mark.parametrize("with_groups", [False, True])
@pytest.mark.parametrize("extent", [30, 2000])  # nearly all suppressed, and hardly any
def test_the_forms_for_accelerators_and_for_cpus_are_equal(count, places, with_groups, extent):
    rng = np.random.default_rng(2)
    boxes = np.round(references.random_boxes(rng, count, extent))
    boxes[rng.random(count) < 0.05] = 7  # without area
    group = rng.integers(0, 3, count)
    for valid in (rng.random(count) < 0.8, np.zeros(count, bool)):
        (kept, number), in_vectors = both_forms(boxes, valid, group, places, with_groups)
        np.testing.assert_array_equal(in_vectors[0], kept)
        assert in_vectors[1] == number <= valid.sum()


@settings(max_examples=25, deadline=None)
@given(grid_boxes(9), hnp.arrays(bool, 9), hnp.arrays(np.int32, 9, elements=st.integers(0, 1)))
def test_the_two_forms_are_equal_on_small_grids(boxes, valid, group):
    at_once, in_vectors = both_forms(boxes, valid, group, 4, True)
    jax.tree.map(np.testing.assert_array_equal, in_vectors, at_once)


def test_boxes_in_order_need_no_scores():
    boxes, scores = row(0, 2, 4, 6, 40), np.arange(5, 0, -1).astype(np.float32)
    valid = np.array([True, False, True, True, True])
    in_order = sorted_nms(boxes, valid, 0.5, 3)
    assert kept_indices(in_order) == kept_indices(nms(boxes, scores, 0.5, 3, valid)) == [0, 2, 4]


def test_it_can_stand_inside_a_differentiated_function():
    def best_left_edge(boxes):
        indices, _ = nms(boxes, boxes[:, 2], 0.5, 1)
        return jnp.sum(boxes[indices, 0])

    gradient = jax.jit(jax.grad(best_left_edge))(jnp.asarray(row(0, 50)))
    np.testing.assert_array_equal(gradient, [[0, 0, 0, 0], [1, 0, 0, 0]])
