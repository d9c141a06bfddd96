import os
import re
import types

import jax
import numpy as np
import pytest
from training.small import over_devices, small_batch, small_config

from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import trainable_mask
from rpn_jax.ops.roi import roi_align, roi_pool
from rpn_jax.runs import determinism
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.runs.determinism import apply_determinism
from rpn_jax.training.build import build_detector, build_train_step
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.state import initial_state

DETERMINISTIC = apply_overrides(default_config(), ["--config.deterministic=true"])
FLAG = "--xla_gpu_deterministic_ops=true"


@pytest.fixture
def starting(monkeypatch):
    """A JAX that has not started yet, with the XLA_FLAGS of the argument."""

    def start(flags):
        monkeypatch.setattr(determinism.xla_bridge, "backends_are_initialized", lambda: False)
        monkeypatch.setenv("XLA_FLAGS", flags)

    return start


def test_the_flag_is_added_to_those_of_the_user(starting):
    starting("--xla_dump_to=/tmp/a --xla_x=1")
    apply_determinism(DETERMINISTIC)
    apply_determinism(DETERMINISTIC)
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=/tmp/a --xla_x=1 {FLAG}"


@pytest.mark.parametrize("flags", ["", "--xla_gpu_deterministic_ops=false"])
def test_nothing_is_added_unasked_or_against_the_user(starting, flags):
    starting(flags)
    apply_determinism(DETERMINISTIC if flags else default_config())
    assert os.environ["XLA_FLAGS"] == flags


@pytest.mark.parametrize(("platform", "fails"), [("gpu", True), ("cpu", False), ("tpu", False)])
def test_too_late_is_an_error_on_gpus_alone(monkeypatch, platform, fails):
    backend = types.SimpleNamespace(platform=platform)
    monkeypatch.setattr(determinism.backend, "get_backend", lambda: backend)
    monkeypatch.setattr(determinism.xla_bridge, "backends_are_initialized", lambda: True)
    monkeypatch.setenv("XLA_FLAGS", "")
    if fails:
        with pytest.raises(UserError, match=rf"already started.*set XLA_FLAGS={FLAG}"):
            apply_determinism(DETERMINISTIC)
    else:
        apply_determinism(DETERMINISTIC)
    monkeypatch.setenv("XLA_FLAGS", FLAG)
    apply_determinism(DETERMINISTIC)  # the user has seen to it


def test_a_gpu_is_given_nothing_whose_result_depends_on_the_order(random_variables):
    """XLA would refuse such a step with the flag, or compute it in a slow loop."""
    config = small_config("--config.batch_size=2")
    detector = build_detector(config)
    network = detector.network
    schedule, optimizer = build_optimizer(config)
    variables = random_variables(network, np.zeros((1, 64, 64, 3), np.float32))
    state = initial_state(variables, trainable_mask(variables["params"], ()), optimizer)
    step = over_devices(build_train_step(config, detector, optimizer, schedule))
    batch = jax.tree.map(lambda x: x[None], small_batch(2))
    traced = jax.jit(step).trace(state, batch, jax.random.key(0))
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "select_and_scatter" not in program
    scatters = re.findall(r'"stablehlo.scatter"[^\n]*', program)
    assert scatters
    assert all("unique_indices = true" in scatter for scatter in scatters)


@pytest.mark.parametrize(("pool", "combined_by"), [(roi_align, ["add"]), (roi_pool, [])])
def test_a_gpu_sums_gradients_of_regions_by_what_xla_can_order(pool, combined_by):
    """With the flag XLA sorts the rows of a scatter that adds, see test_gpu_compiler."""

    def total(features, boxes):
        return jax.vmap(lambda f, b: pool(f, b, size=3, scale=1 / 16))(features, boxes).sum()

    shapes = jax.ShapeDtypeStruct((2, 9, 11, 3), np.float32), np.zeros((2, 5, 4), np.float32)
    traced = jax.jit(jax.grad(total)).trace(*shapes)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "select_and_scatter" not in program
    scatters = r'"stablehlo.scatter".*?stablehlo\.(\w+) %arg\w+, %arg\w+'
    assert re.findall(scatters, program, re.DOTALL) == combined_by
