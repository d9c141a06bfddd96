import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rpn_jax.ops import boxes

COUNT = 6


def box_arrays(smallest, largest_side=500):
    """Boxes on a grid of quarter pixels, with sides of at least `smallest`."""
    corners = hnp.arrays(np.float32, (COUNT, 2), elements=st.integers(-2000, 2000))
    sides = hnp.arrays(np.float32, (COUNT, 2), elements=st.integers(4 * smallest, 4 * largest_side))
    return st.tuples(corners, sides).map(
        lambda pair: np.concatenate([pair[0], pair[0] + pair[1]], axis=1) / np.float32(4)
    )


def test_area_of_a_box_with_a_reversed_side_is_0():
    result = boxes.area(np.array([[1, 2, 4, 8], [4, 2, 1, 8], [4, 8, 1, 2]], np.float32))
    np.testing.assert_array_equal(result, [18, 0, 0])


def test_pairwise_iou_of_overlapping_disjoint_and_touching_boxes():
    a = np.array([[0, 0, 4, 2]], np.float32)
    b = np.array([[2, 0, 6, 4], [9, 9, 10, 10], [4, 0, 8, 2], [0, 0, 4, 2]], np.float32)
    # First pair: intersection 2·2 = 4, union 8 + 16 - 4 = 20.
    np.testing.assert_allclose(boxes.pairwise_iou(a, b), [[0.2, 0, 0, 1]], rtol=1e-6)


def test_pairwise_ioa_is_over_the_area_of_the_first():
    a = np.array([[0, 0, 4, 2]], np.float32)
    b = np.array([[2, 0, 6, 4]], np.float32)
    np.testing.assert_allclose(boxes.pairwise_ioa(a, b), [[4 / 8]], rtol=1e-6)
    np.testing.assert_allclose(boxes.pairwise_ioa(b, a), [[4 / 16]], rtol=1e-6)


@pytest.mark.parametrize("name", ["pairwise_iou", "pairwise_ioa"])
def test_overlaps_equal_the_reference(name):
    rng = np.random.default_rng(0)
    a, b = references.random_boxes(rng, 30), references.random_boxes(rng, 20)
    expected = getattr(references, name)(a, b)
    op = getattr(boxes, name)
    np.testing.assert_allclose(op(a, b), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jit(op)(a, b), expected, atol=1e-6)
    batched = jax.jit(jax.vmap(op))(np.stack([a, a + 1]), np.stack([b, b + 1]))
    np.testing.assert_allclose(batched[0], expected, atol=1e-6)
    np.testing.assert_allclose(batched[1], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["pairwise_iou", "pairwise_ioa"])
@pytest.mark.parametrize("bad", [[5, 5, 5, 5], [5, 5, 5, 9], [9, 9, 5, 5], [np.nan, 0, 9, 9]])
def test_overlaps_of_a_box_without_area_are_0_with_finite_gradient(name, bad):
    op = getattr(boxes, name)
    a = np.array([bad, [0, 0, 10, 10]], np.float32)
    result = op(a, a)
    np.testing.assert_array_equal(result, [[0, 0], [0, 1]])
    if not np.isnan(bad).any():
        assert np.isfinite(jax.jit(jax.grad(lambda x: op(x, x).sum()))(a)).all()


def test_overlaps_of_no_boxes():
    assert boxes.pairwise_iou(np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32)).size == 0


@settings(max_examples=25, deadline=None)
@given(box_arrays(0), box_arrays(0))
def test_iou_is_symmetric_and_between_0_and_1(a, b):
    iou = np.asarray(boxes.pairwise_iou(a, b))
    np.testing.assert_array_equal(iou, boxes.pairwise_iou(b, a).T)
    assert (iou >= 0).all()
    assert (iou <= 1).all()
    has_area = np.asarray(boxes.area(a)) > 0
    np.testing.assert_array_equal(np.diag(boxes.pairwise_iou(a, a)), has_area)


def test_encode_boxes_follows_the_paper():
    anchor = np.array([[0, 0, 10, 20]], np.float32)  # centre (5, 10)
    box = np.array([[5, 0, 25, 10]], np.float32)  # centre (15, 5), sides 20 and 10
    expected = [[(15 - 5) / 10, (5 - 10) / 20, np.log(2), np.log(0.5)]]
    np.testing.assert_allclose(boxes.encode_boxes(anchor, box), expected, rtol=1e-6)
    np.testing.assert_allclose(
        boxes.encode_boxes(anchor, box, (10, 10, 5, 5)),
        np.array(expected) * [10, 10, 5, 5],
        rtol=1e-6,
    )


@settings(max_examples=25, deadline=None)
@given(box_arrays(1), box_arrays(1), st.sampled_from([(1, 1, 1, 1), (10, 10, 5, 5)]))
def test_decode_undoes_encode(anchors, gt_boxes, weights):
    deltas = boxes.encode_boxes(anchors, gt_boxes, weights)
    decoded = boxes.decode_boxes(anchors, deltas, weights, max_log_scale=np.log(1000.0).item())
    # Coordinates up to 1000 and distances up to 1500: float32 resolves them to about 1e-4.
    np.testing.assert_allclose(decoded, gt_boxes, atol=5e-3)


def test_decode_boxes_equals_the_reference_and_cuts_off_the_scale():
    rng = np.random.default_rng(0)
    anchors = references.random_boxes(rng, 20)
    deltas = rng.normal(size=(20, 4)).astype(np.float32)
    deltas[0] = [0, 0, 50, np.log(1000 / 16) + 1]
    expected = [references.decode(a, d) for a, d in zip(anchors, deltas, strict=True)]
    for decode in (boxes.decode_boxes, jax.jit(boxes.decode_boxes), jax.vmap(boxes.decode_boxes)):
        np.testing.assert_allclose(decode(anchors, deltas), expected, rtol=1e-5, atol=1e-4)
    width = anchors[0, 2] - anchors[0, 0]
    cut_off = boxes.decode_boxes(anchors, deltas, max_log_scale=np.log(2).item())
    np.testing.assert_allclose(cut_off[0, 2] - cut_off[0, 0], 2 * width, rtol=1e-5)


def test_encode_boxes_is_finite_for_boxes_without_area():
    degenerate = np.array([[0, 0, 0, 0], [5, 5, 5, 9], [9, 9, 5, 5]], np.float32)
    proper = np.tile(np.array([[0, 0, 10, 20]], np.float32), (3, 1))
    for anchors, gt_boxes in [(proper, degenerate), (degenerate, proper)]:
        assert np.isfinite(boxes.encode_boxes(anchors, gt_boxes)).all()
        for argument in (0, 1):
            gradient = jax.grad(lambda *x: boxes.encode_boxes(*x).sum(), argument)
            assert np.isfinite(jax.jit(gradient)(anchors, gt_boxes)).all()


def test_clip_boxes_to_the_image():
    x = np.array([[-5, -5, 50, 50], [2, 3, 4, 5], [30, 3, 40, 5]], np.float32)
    expected = [[0, 0, 20, 10], [2, 3, 4, 5], [20, 3, 20, 5]]
    np.testing.assert_array_equal(boxes.clip_boxes(x, 10, 20), expected)
    np.testing.assert_array_equal(boxes.clip_boxes(x, jnp.float32(10), np.float32(20)), expected)
    batched = jax.vmap(boxes.clip_boxes)(x[None], np.array([10.0]), np.array([20.0]))
    np.testing.assert_array_equal(batched[0], expected)
