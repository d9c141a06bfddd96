"""Every file in configs/ builds, and its training and evaluation steps have shapes that fit."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from rpn_jax.runs import devices
from rpn_jax.runs.config_files import load_config
from rpn_jax.training.build import build_detector, build_train_step, state_shapes
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.predict_steps import make_eval_step, make_predict_step
from rpn_jax.typing import GroundTruth, Images

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("[!_]*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_its_steps_trace(path):
    config = load_config(str(path))
    assert f"rpn-jax train --config={path.stem}" in path.read_text(), "the header shows the command"
    if "box" in config and not config.box.class_names:
        config.box.class_names = ("circle", "square")  # the data's, in a run
    detector = build_detector(config)
    schedule, optimizer = build_optimizer(config)
    height, width = config.data.shorter_side // 16 * 16, config.data.longer_side // 16 * 16
    batch = Images(
        images=np.zeros((1, height, width, 3), np.uint8),
        image_hw=np.float32([[height, width]]),
        image_index=np.zeros(1, np.int32),
        ground_truth=GroundTruth(
            np.zeros((1, 8, 4), np.float32),
            np.zeros((1, 8), bool),
            np.zeros((1, 8), bool),
            np.zeros((1, 8), np.int32),
            np.zeros((1, 8, *2 * [config.mask.cut_size]), np.uint8) if "mask" in config else None,
        ),
    )
    state = state_shapes(config, detector.network, optimizer)
    train_step = build_train_step(config, detector, optimizer, schedule)
    key = jax.random.key(0)
    traced = jax.make_jaxpr(train_step, axis_env=[(devices.AXIS, 1)], return_shape=True)
    _, (after, metrics) = traced(state, batch, key)
    same = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert same(after) == same(state)
    assert all(value.shape == () for value in metrics.values())

    variables = {"params": state.params, "batch_stats": state.batch_stats}
    found, losses, _ = jax.eval_shape(make_eval_step(detector), variables, batch, key)
    assert found.proposals.boxes.shape[1] >= max(config.evaluation.top_ns)
    assert losses["loss"].shape == (1,)
    if "box" in config:
        found = jax.eval_shape(
            make_predict_step(detector), variables, (batch.images, batch.image_hw)
        )
        assert found.boxes.shape == (1, config.box.detections.top_n, 4)
    for settings in ("train", "test"):
        step = make_predict_step(detector.rpn().with_counts(settings))
        proposals = jax.eval_shape(step, variables, (batch.images, batch.image_hw))
        assert proposals.boxes.shape == (1, config.rpn.proposals[settings].post_nms_top_n, 4)
