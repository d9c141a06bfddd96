"""The metrics of a run: JSON lines and TensorBoard, from values that stay on the device."""

import json
import os
import pathlib
import time

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from rpn_jax.files import regular, replacing

_FLUSH_SECONDS = 30  # between writes of TensorBoard's file


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to TensorBoard; a resumed run appends to the same files.

    Rows of steps after `start_step`, left by a killed run, are dropped, so that the file has each
    step once.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int):
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(path) if row["step"] <= start_step]
        with replacing(path) as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
        self._kept = kept
        self._file = regular(path).open("a", buffering=1)
        # Written in this thread: a full disk kills the thread of tensorboardX's SummaryWriter, and
        # the run would then wait for it for ever.
        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._board = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._flushed = time.monotonic()
        if kept:
            # This makes TensorBoard drop an earlier start's values of later steps.
            self._show(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def has(self, step: int, prefix: str) -> bool:
        """Returns whether an earlier start of the run wrote a row of that step and prefix."""
        return any(
            row["step"] == step and any(name.startswith(f"{prefix}/") for name in row)
            for row in self._kept
        )

    def write(self, step: int, values: dict[str, float], prefix: str = "train") -> dict[str, float]:
        """Writes a row `{"step": …, "train/loss": …}`; returns it without the step."""
        row = {f"{prefix}/{name}": float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        scalars = [summary.scalar(name, value).value[0] for name, value in row.items()]
        self._show(step, summary=Summary(value=scalars))
        return row

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds an RGB picture (H, W, 3) to TensorBoard."""
        self._show(step, summary=summary.image(name, image, dataformats="HWC"))

    def _show(self, step: int, **what) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, **what))
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self._board.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes out what is buffered."""
        self._file.close()
        self._board.close()


def read_metrics(path: pathlib.Path) -> list[dict]:
    """Returns the rows of a `metrics.jsonl`, without those that are damaged.

    A killed run can leave half a line.
    """
    rows = []
    text = regular(path).read_text(errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (RecursionError, ValueError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class PendingMetrics:
    """Metrics of the steps since the last row, kept on the device until `fetch`."""

    def __init__(self):
        self._steps = []

    def add(self, step: int, values: dict[str, jax.Array]) -> None:
        """Keeps a step's metrics."""
        self._steps.append((step, values))

    def are_ready(self) -> bool:
        """Returns whether all kept steps have been computed; does not wait."""
        return not self._steps or self._steps[-1][1]["loss"].is_ready()

    def fetch(self) -> dict[str, float]:
        """Waits for the kept steps and returns the mean of each metric over them.

        Raises:
            NonFiniteError: a loss or a gradient is not finite; names the step.
        """
        steps, self._steps = self._steps, []
        rows = jax.device_get([values for _, values in steps])
        for (step, _), row in zip(steps, rows, strict=True):
            if not np.isfinite(row["loss"]):
                problem = f"the loss of step {step} is {row['loss']}"
                raise NonFiniteError(step, problem, useless_from=step - 1)
            if not np.isfinite(row.get("grad_norm", 0.0)):
                raise NonFiniteError(
                    step, f"the norm of the gradient of step {step} is {row['grad_norm']}"
                )
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


class NonFiniteError(Exception):
    """Numbers were NaN or infinite at `step`; the message says which.

    Saved parameters of the step `useless_from` and of later steps are useless.
    """

    def __init__(self, step: int, problem: str, useless_from: int | None = None):
        super().__init__(problem)
        self.step = step
        self.useless_from = useless_from


def check_finite(step: int, losses: dict[str, float]) -> None:
    """Raises a `NonFiniteError` if a loss measured after `step` is not finite."""
    for name, value in losses.items():
        if not np.isfinite(value):
            problem = f"the {name} of the validation after step {step} is {value}"
            raise NonFiniteError(step, problem, useless_from=step)
