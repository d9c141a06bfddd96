"""Saving a run and going on with it, by Orbax."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rpn_jax.errors import UserError
from rpn_jax.training.devices import AXIS, replicate
from rpn_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of a work folder, the newest `keep` of them.

    Orbax writes in the background to a temporary folder and renames it when it is whole, so that a
    run killed at any moment leaves the earlier checkpoints and nothing half-written among them.
    """

    def __init__(self, workdir: pathlib.Path, keep: int = 1, *, read_only: bool = False):
        self.folder = (workdir / "checkpoints").resolve()
        if read_only and not self.folder.is_dir():
            raise UserError(
                f"{workdir}: holds no checkpoints; "
                f"train there first: python -m rpn_jax train --config=… --workdir={workdir}"
            )
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, read_only=read_only)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest whole checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Begins to write the state; the next call, or `close`, waits until it is written."""
        step = int(state.step)
        if step != self.latest_step():
            self._manager.save(step, args=ocp.args.StandardSave(_to_global(state)))

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Returns the state of a step (the newest by default) on all local devices.

        `like` is a state, or the shapes and types of one.

        Raises:
            UserError: there is no checkpoint, or it does not hold such a state.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise UserError(f"{self.folder}: no checkpoint yet; train until one is written")
        everywhere = NamedSharding(_global_mesh(), PartitionSpec())
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), like
        )
        try:
            state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{self.folder / str(step)}: does not fit this config: {reason}"
            ) from error
        return _to_local(state)

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _global_mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def _to_global(state):
    """Orbax wants arrays that span all processes; pmap's span the local devices."""
    if jax.process_count() == 1:
        return state
    return multihost_utils.host_local_array_to_global_array(state, _global_mesh(), PartitionSpec())


def _to_local(state):
    if jax.process_count() > 1:
        state = multihost_utils.global_array_to_host_local_array(
            state, _global_mesh(), PartitionSpec()
        )
    return replicate(state)
