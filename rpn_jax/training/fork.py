"""Forks: a run that goes on from a step of another, in a folder and with fields of its own."""

import os
import pathlib
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from rpn_jax.errors import UserError, list_some
from rpn_jax.files import user_path
from rpn_jax.runs.best import best_kept_step
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.training.checkpoint import Checkpoints, saved_steps
from rpn_jax.training.state import TrainState


def forked_config(origin: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the config of a run that goes on from `origin`, RUN@STEP or RUN@best.

    It is that run's, with the overrides; `config.fork` says where it comes from.

    Raises:
        UserError: there is no such run, or a field is wrong.
    """
    place, _, step = origin.rpartition("@")
    if not place or not re.fullmatch(r"\d+|best", step):
        raise UserError(f"--from={origin}: give RUN@STEP, such as runs/mine@3000, or RUN@best")
    workdir = user_path(place)
    config = load_workdir_config(workdir)
    steps = saved_steps(workdir)
    config.fork.run = os.path.abspath(workdir)
    config.fork.step = best_kept_step(workdir, steps) if step == "best" else int(step)
    return apply_overrides(config, overrides)


def check_fork(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises a `UserError` unless a run in `workdir` can begin where `config.fork` says.

    A run that has a checkpoint of its own needs the other no more.
    """
    fork = config.fork
    if (fork.run is None) != (fork.step is None):
        raise UserError("config.fork: has a run without a step, or a step without a run; give both")
    if fork.run is None or saved_steps(workdir):
        return
    if fork.step >= config.steps:
        raise UserError(
            f"config.steps={config.steps}: the fork begins at step {fork.step}; give more steps"
        )
    kept = saved_steps(user_path(fork.run))
    if fork.step not in kept:
        there = f"those of {list_some(map(str, kept))}" if kept else "none"
        raise UserError(
            f"config.fork.step={fork.step}: {fork.run} has no checkpoint of it; there are {there}"
        )


def forked_state(config: ConfigDict, like: TrainState) -> TrainState | None:
    """Returns the state that a fork begins with, on all local devices; None if it is no fork.

    `like` is a state, or its shapes and types.

    Raises:
        UserError: the checkpoint is damaged, or of another network or optimiser than the config's.
    """
    if config.fork.run is None:
        return None
    checkpoints = Checkpoints(user_path(config.fork.run), read_only=True)
    try:
        return checkpoints.restore(like, config.fork.step)
    finally:
        checkpoints.close()
