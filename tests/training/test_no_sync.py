"""The host runs ahead of the devices, and waits for them only where it logs."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from training.small import small_config

from rpn_jax.data.datasets import prepare_dataset
from rpn_jax.runs import devices
from rpn_jax.training import build, loop

LOG_EVERY, STEPS = 5, 10
OPTIONS = {"seed": 0, "image_size": 48, "num_train": 16, "num_test": 1}


class Devices:
    """Devices that finish no step before the host has begun the last one of its log interval.

    They give up, for good, when the host keeps them waiting for longer than `patience` seconds: it
    then waits for them.
    """

    def __init__(self, patience: float):
        self.waited_for = False
        self.donated = []
        self._begun = 0
        self._changed = threading.Condition()
        self._patience = patience

    def train_step(self, state, batch, key, numbers):
        # On the first device, which alone holds up the metrics. JAX begins a step on all devices
        # at once, for which a thread of its pool must be free: not all may be kept waiting here.
        loss = lax.cond(
            lax.axis_index(devices.AXIS) == 0,
            lambda: jax.pure_callback(self._run, np.float32(0), state.step),
            lambda: jnp.float32(0),
        )
        return state._replace(step=state.step + 1), {"loss": loss}

    def _run(self, step):
        last_of_interval = (int(step) // LOG_EVERY + 1) * LOG_EVERY
        with self._changed:
            begun = self._changed.wait_for(
                lambda: self.waited_for or self._begun >= last_of_interval, self._patience
            )
            if not begun:
                self.waited_for = True
                self._changed.notify_all()
        return np.float32(0)

    def parallel_update(self, original, train_step):
        update = original(train_step)

        def begin(state, *batch):
            results = update(state, *batch)
            self.donated.append(all(leaf.is_deleted() for leaf in jax.tree.leaves(state)))
            with self._changed:
                self._begun += 1
                self._changed.notify_all()
            return results

        return begin


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    prepare_dataset("shapes", data_dir=folder, **OPTIONS)
    return folder


@pytest.fixture
def train(data_dir, tmp_path, monkeypatch):
    """A function that runs the loop of `training.loop` on `Devices`, and returns those."""

    def run(patience):
        config = small_config(
            "--config.data.dataset=shapes",
            f"--config.data.data_dir={data_dir}",
            "--config.data.longer_side=48",
            "--config.batch_size=8",
            f"--config.steps={STEPS}",
            f"--config.log_every={LOG_EVERY}",
            f"--config.checkpoint.every={STEPS}",
            "--config.evaluation.every=0",
        )
        config.data.options = OPTIONS
        slow = Devices(patience)
        original = devices.parallel_update
        variables = {"params": {"rpn": {"kernel": jnp.ones((1, 1, 2, 3))}}}
        monkeypatch.setattr(build, "initial_variables", lambda *_: variables)
        monkeypatch.setattr(loop, "build_train_step", lambda *_: slow.train_step)
        monkeypatch.setattr(
            devices, "parallel_update", lambda step: slow.parallel_update(original, step)
        )
        # These devices have no program to compile.
        monkeypatch.setattr(devices, "compiled_first", lambda update: update)
        assert int(loop.train(config, tmp_path).step) == STEPS
        return slow

    return run


def test_the_loop_waits_for_the_devices_at_the_logging_interval_alone(train):
    slow = train(patience=60)
    assert not slow.waited_for
    # The state of each step takes the place of the one before, which is never copied.
    assert slow.donated == [True] * STEPS


def test_a_loop_that_waits_elsewhere_is_caught(train, monkeypatch):
    original = loop.Progress.add

    def add(self, step, metrics):
        jax.block_until_ready(metrics)
        original(self, step, metrics)

    monkeypatch.setattr(loop.Progress, "add", add)
    assert train(patience=0.5).waited_for
