"""What version 0.1 of the project wrote still opens, and means the same."""

import json
import pathlib

import jax
import numpy as np
import pytest
from compilers import FUSED

from rpn_jax.errors import UserError
from rpn_jax.runs.config_files import apply_overrides, differences, from_json, to_json
from rpn_jax.trained.load import load_trained
from rpn_jax.training.build import build_detector, initial_variables
from rpn_jax.training.checkpoint import Checkpoints
from rpn_jax.training.state import TrainState
from rpn_jax.weights.model_file import read_model

# Written by commit 6636d84: a ResNet-18 up to c1, seed 0, never trained.
FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "version_0_1"


@pytest.fixture(scope="module")
def config():
    return from_json((FIXTURES / "config.json").read_text())


def test_the_fields_of_a_config_have_moved(config):
    assert config.version == 2
    assert config.detector == "rpn"
    assert config.rpn.channels == 4
    assert config.rpn.objectness == "sigmoid"
    assert config.rpn.anchors.sizes == (12.0, 24.0)
    assert config.rpn.targets.batch_size_per_image == 32
    assert config.rpn.box_weights == (10.0, 10.0, 5.0, 5.0)
    assert config.rpn.proposals.test.pre_nms_top_n == 100
    assert config.model.input_convention == "centred"
    assert config.data.options.splits.to_dict() == {"train": ["a.json", "images"]}
    assert differences(from_json(to_json(config)), config) == []


def test_a_field_that_has_moved_is_named():
    config = from_json((FIXTURES / "config.json").read_text())
    for old, new in {
        "anchors.sizes": "rpn.anchors.sizes",
        "box_weights": "rpn.box_weights",
        "model.head_channels": "rpn.channels",
    }.items():
        with pytest.raises(UserError, match=f"did you mean --config.{new}=…"):
            apply_overrides(config, [f"--config.{old}=1"])


def test_a_config_of_a_later_version_is_refused():
    fields = json.loads((FIXTURES / "config.json").read_text()) | {"version": 3}
    with pytest.raises(UserError, match="version is 3, and this rpn_jax knows 2; install a newer"):
        from_json(json.dumps(fields))


def test_a_model_file_opens_and_the_seed_still_draws_its_numbers(config):
    model = read_model(FIXTURES / "model.safetensors")
    assert model.step == 12
    assert differences(model.config, config) == []
    detector, variables, _ = load_trained(model.config, FIXTURES / "model.safetensors")
    draw = jax.jit(
        lambda: initial_variables(config, detector.network, None), compiler_options=FUSED
    )
    drawn = draw()
    jax.tree.map(np.testing.assert_array_equal, variables["params"], drawn["params"])
    assert set(variables["params"]) == {"backbone", "rpn"}


def test_a_checkpoint_that_calls_the_first_stage_head(tmp_path, config):
    network = build_detector(config).network
    params = jax.device_get(initial_variables(config, network, None))["params"]
    old = {"backbone": params["backbone"], "head": params["rpn"]}
    momentum = jax.tree.map(np.ones_like, old)
    step = np.zeros((), np.int32)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(TrainState(step, old, {}, ({"trace": momentum},)))
    checkpoints.close()
    new = TrainState(step, params, {}, ({"trace": jax.tree.map(np.zeros_like, params)},))
    restored = Checkpoints(tmp_path, read_only=True).restore(new)
    jax.tree.map(np.testing.assert_array_equal, restored.params, params)
    assert {float(leaf.min()) for leaf in jax.tree.leaves(restored.opt_state)} == {1.0}
