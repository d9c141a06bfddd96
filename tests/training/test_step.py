import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.tree_utils import tree_get
from training.small import PYRAMID, over_devices, small_batch, small_config

from rpn_jax.detectors.detector import Losses
from rpn_jax.detectors.rpn import RPN, Look
from rpn_jax.detectors.targets import assign_targets
from rpn_jax.models.rcnn import trainable_mask
from rpn_jax.ops.matching import Label
from rpn_jax.runs import devices
from rpn_jax.training.build import (
    build_detector,
    build_train_step,
    frozen_paths,
    initial_variables,
    load_pretrained,
    state_shapes,
)
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.predict_steps import make_eval_step
from rpn_jax.training.state import evaluation_variables, initial_state, merge, partition
from rpn_jax.training.step import image_keys, micro_batches

BATCH = 4
KEY = jax.random.key(0)


def setup(*overrides, draw=None):
    """`draw` is the fixture `random_variables`, where the initial values do not matter."""
    config = small_config(f"--config.batch_size={BATCH}", *overrides)
    detector = build_detector(config)
    network = detector.network
    schedule, optimizer = build_optimizer(config)
    if draw:
        variables = draw(network, np.zeros((1, 64, 64, 3), np.float32))
    else:
        variables = initial_variables(config, network, load_pretrained(config, network))
    mask = trainable_mask(variables["params"], frozen_paths(config))
    state = initial_state(variables, mask, optimizer, with_ema=bool(config.ema_decay))
    return config, detector, state, build_train_step(config, detector, optimizer, schedule)


def get_in(tree, path):
    return functools.reduce(lambda node, name: node[name], path, tree)


def split(batch, count):
    return jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)


def run_on(count, train_step, state, steps=2):
    """Steps as `devices.parallel_update` does, on the first `count` devices."""
    update = jax.pmap(
        train_step,
        devices.AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        devices=jax.devices()[:count],
    )
    for seed in range(steps):
        state, metrics = update(state, split(small_batch(BATCH, seed), count), KEY)
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def trained():
    config, _, state, train_step = setup()
    return config, state, train_step, run_on(1, train_step, state)


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_devices_gives_the_same_step(trained, count):
    _, state, train_step, (expected, expected_metrics) = trained
    actual, metrics = run_on(count, train_step, state)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6),
        actual.params,
        expected.params,
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-4, err_msg=name)
    for name in ("positives", "sampled_positives", "sampled_negatives"):
        assert metrics[name] == expected_metrics[name]


@pytest.fixture(scope="module")
def sparing():
    """Two steps with all that saves memory, and averages; the states after each of them."""
    config, _, state, train_step = setup(
        "--config.accumulation=4", "--config.model.remat=true", "--config.ema_decay=0.99"
    )
    update = jax.jit(over_devices(train_step))
    states = [state]
    for seed in range(2):
        state, metrics = update(state, split(small_batch(BATCH, seed), 1), KEY)
        states.append(state)
    return *jax.device_get((states, metrics)), config


def test_micro_batches_and_rematerialisation_change_nothing(trained, sparing):
    _, _, _, (expected, expected_metrics) = trained
    states, metrics, _ = sparing
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6),
        (states[-1].params, states[-1].opt_state),
        (expected.params, expected.opt_state),
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-5, err_msg=name)
    for name in ("positives", "sampled_positives", "sampled_negatives"):
        assert metrics[name] == expected_metrics[name]


def test_the_averages_follow_the_parameters_and_are_what_is_evaluated(sparing):
    states, _, _ = sparing
    first, second, third = (state.params for state in states)
    # They move by 9 / (10 + step) of the way, from the initial values.
    average = jax.tree.map(lambda a, b: a + 9 / 10 * (b - a), first, second)
    average = jax.tree.map(lambda a, b: a + 9 / 11 * (b - a), average, third)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        evaluation_variables(states[-1])["params"],
        average,
    )


def test_a_micro_batch_has_the_same_images_on_any_number_of_devices():
    images = np.arange(24)
    for count in (1, 2, 4):
        shares = images.reshape(count, -1)
        whole = [micro_batches(3, {"image": share})["image"] for share in shares]
        for number in range(3):
            members = np.concatenate([share[number] for share in whole])
            np.testing.assert_array_equal(members, images[images % 3 == number])


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "sync_batch_norm"])
def test_two_micro_batches_have_the_gradient_and_the_statistics_of_one_after_the_other(
    norm, monkeypatch, random_variables
):
    """In bfloat16, on two devices."""

    def sum_of_squares(self, look, keys, batch, variables, *, train):
        losses = (look.logits[0] ** 2).sum(axis=1) + (look.deltas[0] ** 2).sum(axis=(1, 2))
        return Losses(losses, {"loss": losses}, look.batch_stats, None)

    monkeypatch.setattr(RPN, "losses_of", sum_of_squares)  # quick to compile
    # Without a learning rate the parameters stay, and without momentum its state is the gradient.
    still = (
        f"--config.model.norm={norm}",
        "--config.model.output_stage=c1",
        "--config.model.dtype=bfloat16",
        "--config.optimizer.learning_rate=0.0",
        "--config.optimizer.momentum=0.0",
        "--config.optimizer.weight_decay=0.0",
    )
    batch = split(small_batch(BATCH), 2)
    _, _, state, train_step = setup(*still, draw=random_variables)
    update = jax.jit(over_devices(train_step))
    one_by_one = [state]
    for number in range(2):
        micro_batch = jax.tree.map(lambda x, i=number: x[:, i : i + 1], batch)
        one_by_one.append(update(one_by_one[-1], micro_batch, KEY)[0])
    first, second = (tree_get(each.opt_state, "trace") for each in one_by_one[1:])

    sparing = "--config.accumulation=2", "--config.model.remat=true", "--config.ema_decay=0.9"
    _, _, state, train_step = setup(*still, *sparing, draw=random_variables)
    both, _ = jax.jit(over_devices(train_step))(state, batch, KEY)
    jax.tree.map(
        lambda actual, a, b: np.testing.assert_allclose(
            actual, (a + b) / 2, atol=0.01 * np.abs(a + b).max()
        ),
        tree_get(both.opt_state, "trace"),
        first,
        second,
    )
    jax.tree.map(np.testing.assert_array_equal, both.params, state.params)
    assert {leaf.dtype for leaf in jax.tree.leaves((both.params, both.ema))} == {
        np.dtype("float32")
    }
    before, after = state.batch_stats, both.batch_stats
    averages = jax.tree.map(lambda old, new: old + 9 / 10 * (new - old), before, after)
    if norm == "frozen_batch_norm":
        check = np.testing.assert_array_equal
    else:
        check = functools.partial(np.testing.assert_allclose, rtol=0.01, atol=1e-4)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), before, after)))
    jax.tree.map(check, after, one_by_one[-1].batch_stats)
    jax.tree.map(check, both.ema["batch_stats"], averages)


def test_a_forgotten_mean_over_devices_would_raise(trained):
    # Under pmap, out_axes=None takes the first device's value unseen; vmap refuses a varying one.
    _, state, train_step, _ = trained
    batch = split(small_batch(BATCH), 2)
    out_state, metrics = jax.eval_shape(over_devices(train_step), state, batch, KEY)
    assert out_state.step.shape == metrics["loss"].shape == ()

    forgetful = jax.vmap(
        lambda state, batch: batch.images.mean(dtype=jnp.float32),
        in_axes=(None, 0),
        out_axes=None,
        axis_name=devices.AXIS,
    )
    with pytest.raises(ValueError, match="out_axes"):
        jax.eval_shape(forgetful, state, batch)


def test_loss_falls_on_one_batch():
    _, _, state, train_step = setup()
    update = jax.pmap(
        train_step,
        devices.AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        devices=jax.devices()[:1],
    )
    losses = []
    for _ in range(20):
        state, metrics = update(state, split(small_batch(BATCH), 1), KEY)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert int(state.step) == 20


def test_frozen_stages_stay_bit_identical_and_have_no_momentum():
    _, _, state, train_step = setup("--config.model.frozen_stages=1")
    after, _ = run_on(1, train_step, state)
    before, after_params = state.params["backbone"], after.params["backbone"]
    jax.tree.map(np.testing.assert_array_equal, before["c1"], after_params["c1"])
    kernel = ("block2", "conv2", "conv", "kernel")
    assert not np.array_equal(*(get_in(p["c2"], kernel) for p in (before, after_params)))
    trainable, _ = partition(state.params, trainable_mask(state.params, [("backbone", "c1")]))
    momentum = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert len(momentum) == len(jax.tree.leaves(trainable))


def test_a_pyramid_passes_through_the_step():
    sparing = "--config.accumulation=2", "--config.model.remat=true", "--config.ema_decay=0.9"
    config = small_config(*PYRAMID, "--config.model.frozen_stages=2", *sparing)
    detector = build_detector(config)
    schedule, optimizer = build_optimizer(config)
    state = state_shapes(config, detector.network, optimizer)
    assert {"lateral2", "output5"} < set(state.params["neck"])
    mapped = over_devices(build_train_step(config, detector, optimizer, schedule))
    after, metrics = jax.eval_shape(mapped, state, split(small_batch(BATCH), 2), KEY)
    shapes, shapes_after = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (state, after)
    )
    assert shapes_after == shapes
    assert metrics["loss"].shape == ()


def test_the_positions_of_all_levels_count():
    config = small_config(*PYRAMID)
    anchors = build_detector(config).anchors(48, 64)
    logits = tuple(np.zeros((1, len(level)), np.float32) for level in anchors)
    deltas = tuple(np.ones((1, len(level), 4), np.float32) for level in anchors)
    loss_box = {}
    for normalizer in ("paper", "sampled"):
        config.rpn.loss.normalizer = normalizer
        losses_of = jax.jit(build_detector(config).losses_of)
        look = Look(logits, deltas, anchors, {})
        losses = losses_of(look, image_keys(KEY, 0, 0, 1), small_batch(1))
        loss_box[normalizer] = float(losses.parts["loss_box"][0])
    # 48 x 64 at strides 4, 8, 16, 32 and 64; the small config samples 32 anchors.
    positions = 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2 + 1 * 1
    assert loss_box["paper"] > 0
    np.testing.assert_allclose(loss_box["paper"] * positions, loss_box["sampled"] * 32, rtol=1e-5)


def test_partition_and_merge_are_inverse():
    tree = {"a": {"x": jnp.ones(2), "y": jnp.zeros(3)}, "b": jnp.arange(4)}
    mask = {"a": {"x": True, "y": False}, "b": True}
    trainable, frozen = partition(tree, mask)
    assert len(jax.tree.leaves(trainable)) == 2
    assert len(jax.tree.leaves(frozen)) == 1
    jax.tree.map(np.testing.assert_array_equal, merge(trainable, frozen), tree)


def test_a_key_is_of_the_image_and_not_of_its_device():
    whole = image_keys(KEY, 7, 0, 8)
    halves = jnp.concatenate([image_keys(KEY, 7, 0, 4), image_keys(KEY, 7, 4, 4)])
    np.testing.assert_array_equal(jax.random.key_data(whole), jax.random.key_data(halves))
    assert len(np.unique(jax.random.key_data(whole), axis=0)) == 8
    other_step = jax.random.key_data(image_keys(KEY, 8, 0, 8))
    assert not (other_step == jax.random.key_data(whole)).all(axis=1).any()


def test_ignore_regions_and_canvas_padding_are_neither_object_nor_background():
    detector = build_detector(small_config())
    batch = small_batch(2)
    anchors = detector.anchors(48, 64)

    @jax.jit
    @jax.vmap
    def targets_of(key, ground_truth, image_hw):
        options = detector.proposals.targets
        return assign_targets(key, jnp.concatenate(anchors), ground_truth, image_hw, **options)

    targets = targets_of(image_keys(KEY, 0, 0, 2), batch.ground_truth, batch.image_hw)
    labels = np.asarray(targets.matches.labels)
    boxes = np.concatenate(anchors)
    centre_x = (boxes[:, 0] + boxes[:, 2]) / 2
    assert (labels[:, centre_x > 60] == Label.IGNORE).all()
    for image in range(2):
        x1, y1, x2, y2 = batch.ground_truth.boxes[image, 1]  # the ignore region
        width = np.minimum(boxes[:, 2], x2) - np.maximum(boxes[:, 0], x1)
        height = np.minimum(boxes[:, 3], y2) - np.maximum(boxes[:, 1], y1)
        inside = np.clip(width, 0, None) * np.clip(height, 0, None)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        covered = inside > 0.5 * area
        assert covered.any()
        assert (labels[image, covered] != Label.NEGATIVE).all()


def test_evaluation_does_not_depend_on_the_batch_an_image_is_in(trained):
    config, state, _, _ = trained
    eval_step = jax.jit(make_eval_step(build_detector(config)))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    batch = small_batch(BATCH)
    whole = eval_step(variables, batch, KEY)
    order = np.array([2, 0, 3, 1])
    shuffled = eval_step(variables, jax.tree.map(lambda x: x[order], batch), KEY)
    found, losses, labels = jax.tree.map(lambda x: np.asarray(x)[order], whole)
    proposals = found.proposals
    np.testing.assert_array_equal(shuffled[2], labels)
    np.testing.assert_allclose(shuffled[1]["loss"], losses["loss"], rtol=1e-5)
    np.testing.assert_allclose(shuffled[0].proposals.boxes, proposals.boxes, atol=1e-3)
    assert proposals.boxes.shape == (BATCH, 50, 4)
    assert (np.diff(proposals.scores, axis=1) <= 0).all()
