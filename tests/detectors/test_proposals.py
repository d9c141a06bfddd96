import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from rpn_jax.detectors.proposals import propose
from rpn_jax.ops.anchors import cell_anchors, grid_anchors
from rpn_jax.typing import Proposals

IMAGE_HW = np.array([90, 100], np.float32)
ANCHORS = (
    np.asarray(grid_anchors(cell_anchors((16, 32)), (12, 13), (8, 8))),
    np.asarray(grid_anchors(cell_anchors((64,)), (6, 7), (16, 16))),
)


def head_outputs(seed, spread=0.3):
    rng = np.random.default_rng(seed)
    logits = tuple(rng.normal(size=len(a)).astype(np.float32) for a in ANCHORS)
    deltas = tuple((spread * rng.normal(size=a.shape)).astype(np.float32) for a in ANCHORS)
    return logits, deltas


_propose = jax.jit(
    propose,
    static_argnames=(
        "pre_nms_top_n",
        "post_nms_top_n",
        "nms_threshold",
        "min_size",
        "box_weights",
        "max_log_scale",
        "keep_padding",
    ),
)


def one_level(anchors, logits, deltas=None, image_hw=(1000, 1000), **options):
    """`propose` from lists for one level; anchors are proposed as they are without deltas."""
    anchors = np.array(anchors, np.float32)
    deltas = np.zeros_like(anchors) if deltas is None else np.array(deltas, np.float32)
    options = {"pre_nms_top_n": 10, "post_nms_top_n": 4} | options
    return _propose(
        (np.array(logits, np.float32),),
        (deltas,),
        (anchors,),
        np.array(image_hw, np.float32),
        **options,
    )


FAR_APART = [[0, 0, 10, 10], [100, 0, 110, 10], [200, 0, 210, 10]]


def test_boxes_come_by_falling_probability_and_padded():
    proposals = one_level(FAR_APART, [0, 2, -1])
    np.testing.assert_array_equal(proposals.valid, [True, True, True, False])
    np.testing.assert_array_equal(
        proposals.boxes, [FAR_APART[1], FAR_APART[0], FAR_APART[2], [0, 0, 0, 0]]
    )
    sigmoid = 1 / (1 + np.exp([-2, 0, 1]))
    np.testing.assert_allclose(proposals.scores, [*sigmoid, 0], rtol=1e-6)
    np.testing.assert_array_equal(proposals.level, 0)


def test_boxes_are_decoded_with_the_weights_and_the_limit_given():
    deltas = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 9]]
    proposals = one_level(
        FAR_APART, [3, 2, 1], deltas, box_weights=(10, 10, 5, 5), max_log_scale=float(np.log(2))
    )
    # The first moves by 1/10 of its width; the third doubles its height and is clipped at 0.
    expected = [[1, 0, 11, 10], FAR_APART[1], [200, 0, 210, 15]]
    np.testing.assert_allclose(proposals.boxes[:3], expected, rtol=1e-5)


def test_logits_are_ranked_where_probabilities_saturate():
    logits = [40, 60, 50]  # the sigmoid of all three is 1 in float32
    proposals = one_level(FAR_APART, logits)
    np.testing.assert_array_equal(proposals.scores[:3], 1)
    np.testing.assert_array_equal(proposals.boxes[:3, 0], [100, 200, 0])


def test_only_the_best_anchors_enter_and_only_the_best_boxes_leave():
    assert one_level(FAR_APART, [1, 2, 3], pre_nms_top_n=2).valid.sum() == 2
    shortest = one_level(FAR_APART, [1, 2, 3], post_nms_top_n=1)
    np.testing.assert_array_equal(shortest.boxes, [FAR_APART[2]])
    # The two best are one box: pre_nms_top_n counts before the NMS.
    twice = one_level([FAR_APART[0], *FAR_APART], [9, 8, 1, 0], pre_nms_top_n=2)
    np.testing.assert_array_equal(twice.valid, [True, False, False, False])


@pytest.mark.parametrize("nms_threshold", [0.7, None])
def test_without_nms_copies_stay(nms_threshold):
    proposals = one_level([FAR_APART[0]] * 3, [1, 3, 2], nms_threshold=nms_threshold)
    assert proposals.valid.sum() == (3 if nms_threshold is None else 1)
    assert (np.diff(proposals.scores) <= 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", range(5))
def test_what_is_not_finite_proposes_nothing(bad, column):
    outputs = np.zeros((3, 5), np.float32)
    outputs[1, column] = bad
    proposals = one_level(FAR_APART, outputs[:, 0], outputs[:, 1:])
    assert proposals.valid.sum() == 2
    np.testing.assert_array_equal(proposals.boxes[:2], [FAR_APART[0], FAR_APART[2]])
    assert np.isfinite(proposals.boxes).all()
    assert np.isfinite(proposals.scores).all()


def test_boxes_smaller_than_the_minimum_after_clipping_are_dropped():
    anchors = [[0, 0, 8, 8], [0, 0, 7, 20], [-10, 20, 7, 40], [30, 30, 50, 50]]
    proposals = one_level(anchors, [4, 3, 2, 1], min_size=8, keep_padding=True)
    np.testing.assert_array_equal(proposals.boxes[:2], [anchors[0], anchors[3]])
    assert proposals.valid.sum() == 2


def test_boxes_without_area_are_dropped_even_without_a_minimum():
    # The second is moved beyond the border and clipped to nothing.
    proposals = one_level(FAR_APART, [1, 1, 1], [[0] * 4, [0, -5, 0, 0], [0] * 4])
    np.testing.assert_array_equal(proposals.boxes[:2], [FAR_APART[0], FAR_APART[2]])
    assert proposals.valid.sum() == 2


def test_the_padding_of_the_canvas_proposes_nothing_unless_asked():
    # Centre (105, 5) and an image of 104 pixels' width: half of the box would lie inside.
    arguments = (FAR_APART, [1, 9, 8])
    proposals = one_level(*arguments, image_hw=(50, 104), pre_nms_top_n=1)
    np.testing.assert_array_equal(proposals.boxes[0], FAR_APART[0])
    kept = one_level(*arguments, image_hw=(50, 104), keep_padding=True)
    np.testing.assert_array_equal(kept.boxes[:2], [[100, 0, 104, 10], FAR_APART[0]])


def test_levels_do_not_suppress_each_other_and_compete_for_the_places():
    proposals = _propose(
        (np.array([1, 0], np.float32), np.array([2], np.float32)),
        (np.zeros((2, 4), np.float32), np.zeros((1, 4), np.float32)),
        (np.array([[0, 0, 9, 9]] * 2, np.float32), np.array([[0, 0, 9, 9]], np.float32)),
        IMAGE_HW,
        pre_nms_top_n=5,
        post_nms_top_n=3,
    )
    np.testing.assert_array_equal(proposals.valid, [True, True, False])
    np.testing.assert_array_equal(proposals.level, [1, 0, 0])


@pytest.mark.parametrize("levels", [1, 2])
def test_equals_the_reference_alone_and_batched(levels):
    options = {"pre_nms_top_n": 100, "post_nms_top_n": 40, "nms_threshold": 0.5}
    run = functools.partial(_propose, **options)
    anchors = ANCHORS[:levels]
    outputs = [tuple(x[:levels] for x in head_outputs(seed)) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *outputs)
    sizes = np.stack([IMAGE_HW, IMAGE_HW - 20])
    batched = jax.vmap(run, (0, 0, None, 0))(*stacked, anchors, sizes)
    for i, (logits, deltas) in enumerate(outputs):
        boxes, scores, level = references.propose(logits, deltas, anchors, sizes[i], **options)
        for result in (Proposals(*(x[i] for x in batched)), run(logits, deltas, anchors, sizes[i])):
            count = int(result.valid.sum())
            assert count == len(boxes)
            np.testing.assert_allclose(result.boxes[:count], boxes, atol=1e-3)
            np.testing.assert_allclose(result.scores[:count], 1 / (1 + np.exp(-scores)), rtol=1e-5)
            np.testing.assert_array_equal(result.level[:count], level)
            np.testing.assert_array_equal(result.boxes[count:], 0)


def test_a_proposal_knows_its_anchor_among_those_of_all_levels():
    anchors = [grid_of(count, 8.0 * side) for count, side in ((6, 1), (4, 3))]
    rng = np.random.default_rng(3)
    logits = [rng.normal(size=len(level)).astype(np.float32) for level in anchors]
    found = propose(
        logits,
        [np.zeros_like(level) for level in anchors],
        anchors,
        np.float32([64, 64]),
        pre_nms_top_n=5,
        post_nms_top_n=12,
    )
    valid = np.asarray(found.valid)
    assert valid.sum() == 9  # one of the first level does not enter
    np.testing.assert_array_equal(np.concatenate(anchors)[found.anchor[valid]], found.boxes[valid])


def grid_of(count, side):
    """Boxes side by side in a row."""
    x = side * np.arange(count, dtype=np.float32) / 2
    return np.stack([x, 0 * x, x + side / 2, 0 * x + side / 2], axis=1)


def test_no_gradient_flows_through_a_proposal():
    (logits, *_), (deltas, *_) = head_outputs(0)

    def total(logits, deltas):
        proposals = propose(
            (logits,), (deltas,), ANCHORS[:1], IMAGE_HW, pre_nms_top_n=20, post_nms_top_n=5
        )
        return jnp.sum(proposals.boxes) + jnp.sum(proposals.scores)

    for gradient in jax.jit(jax.grad(total, (0, 1)))(logits, deltas):
        np.testing.assert_array_equal(gradient, 0)
