"""What the paper claims of its method, whatever the weights."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpn_jax.detectors.proposals import propose
from rpn_jax.models.rcnn import build_rcnn
from rpn_jax.models.receptive_field import rows_seen
from rpn_jax.ops.anchors import cell_anchors, grid_anchors
from rpn_jax.ops.losses import rpn_loss
from rpn_jax.ops.matching import Label
from rpn_jax.typing import Matches, Targets

STRIDE = 4
GRID = (24, 26)
HEIGHT, WIDTH = (STRIDE * count for count in GRID)


@pytest.fixture(scope="module", params=[("vgg16", "c3"), ("resnet18", "c2")], ids=lambda p: p[0])
def shifted(request, random_variables):
    """The outputs for two views of a scene, the second of them one stride up and to the left.

    Logits (2, rows, columns, 3) and deltas (2, rows, columns, 3, 4) of what both views show, away
    from their borders, and the anchors there (2, rows, columns, 3, 4). The network sees in the
    second view one cell further down and to the right what it sees in the first.
    """
    backbone, stage = request.param
    network = build_rcnn(backbone=backbone, output_stage=stage, num_anchors=3, head_channels=16)
    rng = np.random.default_rng(0)
    scene = rng.normal(size=(HEIGHT + STRIDE, WIDTH + STRIDE, 3)).astype(np.float32)
    images = np.stack([scene[STRIDE:, STRIDE:], scene[:-STRIDE, :-STRIDE]])
    variables = random_variables(network, images)
    variables["params"]["rpn"]["deltas"]["kernel"] *= 0.1  # boxes that stay near their anchors
    assert network.strides == (STRIDE,)
    assert network.grid_hw(HEIGHT, WIDTH) == (GRID,)

    (logits,), (deltas,) = jax.jit(network.apply)(variables, images)
    ((seen,), _) = rows_seen(
        lambda image: network.apply(variables, image),
        jax.ShapeDtypeStruct((1, 4 * HEIGHT, 64, 3), np.float32),
    )
    margin = seen.extent // (2 * STRIDE) + 1  # cells nearer to the border see beyond it
    anchors = grid_anchors(cell_anchors((8,)), GRID, (STRIDE, STRIDE))

    def both_views(values):
        values = np.asarray(values).reshape(-1, *GRID, 3, *values.shape[2:])
        first, second = values[0], values[-1]
        rows, columns = (slice(margin, count - margin - 1) for count in GRID)
        rows_after, columns_after = (slice(margin + 1, count - margin) for count in GRID)
        return np.stack([first[rows, columns], second[rows_after, columns_after]])

    return both_views(logits), both_views(deltas), both_views(anchors[None])


def test_a_shift_by_the_stride_shifts_objectness_and_deltas(shifted):
    for first, second in shifted[:2]:
        assert first.size > 200
        assert first.std() > 0.05
        np.testing.assert_allclose(second, first, rtol=0, atol=1e-5 * np.abs(first).max())


def test_a_shift_by_the_stride_shifts_the_proposals(shifted):
    def propose_view(logits, deltas, anchors):
        return propose(
            (logits.reshape(-1),),
            (deltas.reshape(-1, 4),),
            (anchors.reshape(-1, 4),),
            np.float32([HEIGHT, WIDTH]),
            pre_nms_top_n=200,
            post_nms_top_n=50,
        )

    proposals = jax.jit(jax.vmap(propose_view))(*shifted)
    assert proposals.valid.sum() > 60
    np.testing.assert_array_equal(*proposals.valid)
    valid = np.asarray(proposals.valid[0])
    first, second = np.asarray(proposals.boxes)[:, valid]
    assert first.min() > 0  # none was clipped
    assert (second[:, 2:] < [WIDTH, HEIGHT]).all()
    np.testing.assert_allclose(second, first + STRIDE, atol=1e-3)
    np.testing.assert_allclose(*np.asarray(proposals.scores)[:, valid], rtol=1e-4)


@pytest.mark.parametrize("rounding", ["none", "torchvision", "caffe"])
@settings(max_examples=25, deadline=None)
@given(
    stride_hw=st.tuples(st.floats(1, 64), st.floats(1, 64)),
    offset=st.floats(0, 1),
)
def test_the_anchors_at_every_position_are_copies_of_one_pyramid(rounding, stride_hw, offset):
    pyramid = cell_anchors(rounding=rounding)
    anchors = np.asarray(grid_anchors(pyramid, (3, 4), stride_hw, offset)).reshape(3, 4, 9, 4)
    for row in range(3):
        for column in range(4):
            y, x = (row + offset) * stride_hw[0], (column + offset) * stride_hw[1]
            np.testing.assert_allclose(anchors[row, column] - [x, y, x, y], pyramid, atol=1e-4)


def head_outputs_and_targets(seed=0, num_anchors=60):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=num_anchors).astype(np.float32)
    deltas, target_deltas = rng.normal(size=(2, num_anchors, 4)).astype(np.float32)
    labels = rng.integers(-1, 2, num_anchors).astype(np.int32)
    return logits, deltas, Targets(labels, target_deltas, Matches(labels, labels, logits))


@functools.partial(jax.jit, static_argnames=("normalizer", "balance"))
def parts_and_gradients(logits, deltas, targets, **options):
    """The two losses, and the gradients of their sum with respect to logits and deltas."""

    def loss(logits, deltas):
        return rpn_loss(logits, deltas, targets, num_positions=20, **options)

    (_, parts), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(logits, deltas)
    return parts, gradients


@pytest.mark.parametrize("normalizer", ["paper", "sampled"])
@pytest.mark.parametrize("said", [-3.0, 1e30, np.inf, np.nan])
def test_p_star_switches_the_box_term_of_negatives_off(normalizer, said):
    logits, deltas, targets = head_outputs_and_targets()
    negative = targets.labels == Label.NEGATIVE
    assert negative.any()
    changed = np.where(negative[:, None], np.float32(said), deltas)
    expected, result = (
        parts_and_gradients(logits, d, targets, normalizer=normalizer, balance=10)
        for d in (deltas, changed)
    )
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    d_deltas = np.asarray(result[1][1])
    np.testing.assert_array_equal(d_deltas[targets.labels != Label.POSITIVE], 0)
    assert (d_deltas[targets.labels == Label.POSITIVE] != 0).all()


@pytest.mark.parametrize("normalizer", ["paper", "sampled"])
@pytest.mark.parametrize("balance", [0, 10])
def test_lambda_scales_the_box_term_alone(normalizer, balance):
    outputs = head_outputs_and_targets()
    parts, (d_logits, d_deltas) = parts_and_gradients(
        *outputs, normalizer=normalizer, balance=balance
    )
    unit, (unit_d_logits, unit_d_deltas) = parts_and_gradients(
        *outputs, normalizer=normalizer, balance=1
    )
    np.testing.assert_array_equal(parts["loss_objectness"], unit["loss_objectness"])
    np.testing.assert_array_equal(d_logits, unit_d_logits)
    np.testing.assert_allclose(parts["loss_box"], balance * unit["loss_box"], rtol=1e-6)
    np.testing.assert_allclose(d_deltas, balance * unit_d_deltas, rtol=1e-5)
    assert unit["loss_box"] > 0
