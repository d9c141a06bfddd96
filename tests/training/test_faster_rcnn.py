"""The two-stage detector under the step that trains the RPN."""

import functools

import jax
import numpy as np
import pytest
from compilers import FUSED
from training.small import over_devices, small_batch, small_detector_config

from rpn_jax.detectors.rpn import RPN, Look
from rpn_jax.errors import UserError
from rpn_jax.training.build import build_detector, build_train_step, new_state
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.predict_steps import make_eval_step, make_predict_step
from rpn_jax.training.step import image_keys

BATCH = 4
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def built():
    config = small_detector_config(f"--config.batch_size={BATCH}", "--config.box.dropout=0.5")
    detector = build_detector(config)
    schedule, optimizer = build_optimizer(config)
    state = new_state(config, detector.network, optimizer)
    return config, detector, state, build_train_step(config, detector, optimizer, schedule)


def shares(batch, count):
    return jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)


@pytest.fixture(scope="module")
def runs(built):
    """Two steps of one batch, shared by one device and by four."""
    _, _, state, train_step = built
    update = jax.jit(over_devices(train_step))
    results = {}
    for count in (1, 4):
        now = state
        for seed in range(2):
            now, metrics = update(now, shares(small_batch(BATCH, seed), count), KEY)
        results[count] = jax.device_get((now.params, metrics))
    return results


def test_any_number_of_devices_gives_the_same_step(runs):
    (expected, expected_metrics), (actual, metrics) = runs[1], runs[4]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), actual, expected
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-4, err_msg=name)
    for name in ("sampled_positives", "sampled_objects", "sampled_backgrounds"):
        assert metrics[name] == expected_metrics[name]


def test_the_loss_is_the_sum_of_the_four(runs):
    _, metrics = runs[1]
    parts = ("loss_objectness", "loss_box", "loss_class", "loss_class_box")
    np.testing.assert_allclose(metrics["loss"], sum(metrics[name] for name in parts), rtol=1e-5)
    assert all(metrics[name] > 0 for name in parts)


def test_both_stages_and_the_backbone_are_trained(built, runs):
    before, (after, _) = built[2].params, runs[1]
    for part in ("backbone", "rpn", "box"):
        pairs = zip(jax.tree.leaves(before[part]), jax.tree.leaves(after[part]), strict=True)
        assert any((np.asarray(a) != b).any() for a, b in pairs), part


@pytest.fixture(scope="module")
def second_stage():
    """What it costs, and the gradient, by `(levels, logits, deltas, params)`: a point as well.

    Of both kinds of joint training, on what a backbone and an RPN might say of two images.
    """
    flags = "--config.box.pooling.kind=align", "--config.box.dropout=0.0"
    exact = build_detector(small_detector_config(*flags, "--config.joint.box_gradient=true"))
    usual = build_detector(small_detector_config(*flags))
    batch, keys = small_batch(2), image_keys(KEY, 0, 0, 2)
    anchors = exact.anchors(48, 64)
    count, grid_hw = len(anchors[0]), exact.network.grid_hw(48, 64)[0]
    generator = np.random.default_rng(0)

    def drawn(*shape, scale=1.0):
        return generator.normal(0, scale, shape).astype(np.float32)

    shapes = {"fc6": (3 * 3 * 8, 16), "fc7": (16, 16), "scores": (16, 3), "deltas": (16, 12)}
    params = {
        name: {"kernel": drawn(*shape, scale=0.3), "bias": drawn(shape[1], scale=0.1)}
        for name, shape in shapes.items()
    }
    point = drawn(2, *grid_hw, 8), drawn(2, count), drawn(2, count, 4, scale=0.3), params

    def loss_of(point, detector):
        levels, logits, deltas, params = point
        look = Look((logits,), (deltas,), anchors, {}, (levels,))
        variables = {"params": {"box": params}}
        parts = detector.losses_of(look, keys, batch, variables, train=True).parts
        objects = parts["sampled_objects"].min()
        return (parts["loss_class"] + parts["loss_class_box"]).sum(), objects

    @jax.jit
    def costs(point):
        of = jax.value_and_grad(loss_of, has_aux=True)
        return {"usual": of(point, usual), "exact": of(point, exact)}

    return costs, point


def test_no_gradient_flows_through_the_proposals(second_stage):
    costs, point = second_stage
    found = costs(point)
    levels, logits, deltas, params = found["usual"][1]
    assert not np.asarray(logits).any()
    assert not np.asarray(deltas).any()
    assert np.asarray(levels).any()
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(params))
    # Nor does one through the choice of them.
    assert not np.asarray(found["exact"][1][1]).any()


def test_with_box_gradient_it_is_that_of_finite_differences(second_stage):
    costs, point = second_stage
    levels, logits, deltas, params = point
    (_, objects), gradient = costs(point)["exact"]
    assert objects > 0
    slope = np.asarray(gradient[2])
    length = np.linalg.norm(slope)
    step = 5e-4 * slope / length
    above, below = (
        costs((levels, logits, deltas + moved, params))["exact"][0][0] for moved in (step, -step)
    )
    assert length > 0.01
    np.testing.assert_allclose((above - below) / 1e-3, length, rtol=0.02)


def test_roi_pool_has_no_gradient_by_boxes():
    config = small_detector_config("--config.joint.box_gradient=true")
    with pytest.raises(UserError, match="set config.box.pooling.kind to align"):
        build_detector(config)


def test_detections_are_made_of_the_proposals_that_the_rpn_alone_gives(built):
    _, detector, state, _ = built
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    batch = small_batch(2)
    images = batch.images, batch.image_hw
    alone = detector.rpn()
    assert type(alone) is RPN
    fused = functools.partial(jax.jit, compiler_options=FUSED)
    proposals = fused(make_predict_step(alone))(variables, images)
    found, losses, _ = fused(make_eval_step(detector))(variables, batch, KEY)
    np.testing.assert_array_equal(found.proposals.boxes[:, :20], proposals.boxes)
    detections = jax.jit(make_predict_step(detector))(variables, images)
    assert detections.valid.any()
    for name in ("boxes", "scores", "labels", "valid"):
        np.testing.assert_allclose(
            getattr(found.detections, name), getattr(detections, name), atol=1e-5
        )
    assert set(detections.labels[detections.valid].tolist()) <= {1, 2}
    assert np.isfinite(losses["loss"]).all()


def test_fast_rcnn_on_the_same_proposals_is_the_second_stage(built):
    _, detector, state, _ = built
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    batch, keys = small_batch(2), image_keys(KEY, 0, 0, 2)
    fast = detector.fast()

    @jax.jit
    def both(variables, batch):
        look = detector.look(variables, batch.images, batch.image_hw)
        train, test = (
            detector.proposals_of(look, batch.image_hw, counts)
            for counts in (detector.proposals.train, detector.proposals.test)
        )
        given = batch._replace(proposals=train)
        return (
            detector.losses(variables, keys, batch, train=True).parts,
            fast.losses(variables, keys, given, train=True).parts,
            detector.predict(variables, batch.images, batch.image_hw),
            fast.predict(variables, batch.images, batch.image_hw, test),
        )

    expected, parts, detections, of_fast = both(variables, batch)
    assert parts.keys() == expected.keys() - {
        *("loss_objectness", "loss_box", "objectness_accuracy", "positives"),
        *("sampled_positives", "sampled_negatives"),
    }
    np.testing.assert_allclose(
        parts["loss"], expected["loss_class"] + expected["loss_class_box"], rtol=1e-5
    )
    for name in parts.keys() - {"loss"}:
        np.testing.assert_allclose(parts[name], expected[name], rtol=1e-5, err_msg=name)
    assert np.asarray(parts["sampled_objects"]).all()
    for a, b in zip(jax.tree.leaves(detections), jax.tree.leaves(of_fast), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
