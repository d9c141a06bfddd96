"""TensorBoard's HPARAMS tab: a run's values of the sweep's fields, and its final recall."""

import pathlib
import time
from collections.abc import Sequence

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from rpn_jax.runs.config import flatten
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.sweeps.runs import final_figures


def write_hyperparameters(workdir: pathlib.Path, fields: Sequence[str]) -> None:
    """Adds a file to the run's `tensorboard`: its value of each field, and `evaluation/AR_N`.

    Numbers stay numbers, to be sorted and drawn; everything else is shown as text.
    """
    config = flatten(load_workdir_config(workdir))
    values = {field: config[field] for field in fields}
    shown = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in values.items()
    }
    figures = final_figures(workdir)
    scalars = [
        summary.scalar(f"evaluation/{name}", value).value[0]
        for name, value in figures.items()
        if "_" not in name  # those by object size
    ]
    # Named by the scalars' tags, in which TensorBoard has replaced the @.
    parts = summary.hparams(shown, {scalar.tag: scalar.simple_value for scalar in scalars})
    folder = workdir / "tensorboard"
    folder.mkdir(exist_ok=True)
    # TensorBoard reads a folder's files by name, and names begin with the time: this one is last.
    board = EventsWriter(str(folder / "events"), ".hparams")
    for part in (*parts, Summary(value=scalars)):
        board.write_event(Event(wall_time=time.time(), step=config["steps"], summary=part))
    board.close()
