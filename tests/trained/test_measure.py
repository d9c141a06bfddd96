"""What a trained network is, when it is taken from the folder of its run."""

import jax
import numpy as np
import pytest
from training.small import small_config

from rpn_jax.models.rcnn import trainable_mask
from rpn_jax.runs import devices
from rpn_jax.trained.load import load_trained
from rpn_jax.training.build import build_network
from rpn_jax.training.checkpoint import Checkpoints
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.state import initial_state


@pytest.mark.parametrize("with_ema", [False, True])
def test_it_has_the_averages_of_a_run_that_kept_them(with_ema, random_variables, tmp_path):
    options = ["--config.ema_decay=0.9"] if with_ema else []
    config = small_config("--config.model.frozen_stages=1", *options)
    variables = random_variables(build_network(config), np.zeros((1, 64, 64, 3), np.float32))
    mask = trainable_mask(variables["params"], [("backbone", "c1")])
    state = initial_state(variables, mask, build_optimizer(config)[1], with_ema=with_ema)
    state = state._replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(devices.replicate(state))
    checkpoints.close()

    _, loaded, step = load_trained(config, tmp_path)
    assert step == 0
    is_averaged = jax.tree.map(lambda learns: learns and with_ema, mask)
    jax.tree.map(
        lambda actual, raw, averaged: np.testing.assert_array_equal(actual, raw + averaged),
        loaded["params"],
        variables["params"],
        is_averaged,
    )
