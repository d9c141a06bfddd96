"""Loggers beside TensorBoard: Weights & Biases, MLflow or one's own, named in `config.loggers`.

Each works in a thread of its own, so that a slow or broken network neither holds up nor ends a
training: after an error there is one line, and the run goes on without that logger. Its metrics are
in `metrics.jsonl` all the same.

    WORKDIR/loggers/wandb.id    the run's id there; the run goes on under it when it is resumed
    WORKDIR/loggers/mlflow.id
"""

import contextlib
import functools
import importlib
import logging
import os
import pathlib
import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ml_collections import ConfigDict

from rpn_jax.errors import UserError, first_line
from rpn_jax.files import write_text
from rpn_jax.parts import check_call, import_part, is_import_path
from rpn_jax.runs.config import flatten
from rpn_jax.text import printable

_FIELD = "config.loggers"
_PROJECT = "rpn-jax"
_CLOSING_SECONDS = 30.0  # to send what is left at the end of a run


class Logger(Protocol):
    """Takes a run's metrics. It is made with `(workdir, config)`, the config's fields by name."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes a row such as `{"train/loss": 0.5}`; a resumed run can give a step once more."""

    def close(self) -> None:
        """Sends what is left."""


class WandbLogger:
    """A run of Weights & Biases; WANDB_PROJECT, WANDB_MODE and its other variables apply."""

    def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any]):
        import wandb

        folder = _folder(workdir)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=workdir.resolve().name,
            id=_kept(folder / "wandb.id", lambda: secrets.token_hex(4)),
            resume="allow",
            dir=folder,
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Its own count of steps would refuse those that a resumed run repeats.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


class MlflowLogger:
    """A run of MLflow; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its others apply."""

    def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any]):
        import mlflow

        # A line for each retry; what fails in the end is said once.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self._client = mlflow.MlflowClient()
        file = _folder(workdir) / "mlflow.id"
        is_new = not file.exists()
        self._id = _kept(file, lambda: self._begin(workdir.resolve().name))
        self._client.update_run(self._id, status="RUNNING")
        if is_new:
            params = [mlflow.entities.Param(name, str(value)) for name, value in config.items()]
            for first in range(0, len(params), 100):  # at most so many at once
                self._client.log_batch(self._id, params=params[first : first + 100])
        self._metric = mlflow.entities.Metric

    def _begin(self, name: str) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(title)
        place = experiment.experiment_id if experiment else self._client.create_experiment(title)
        return self._client.create_run(place, run_name=name).info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        now = int(1000 * time.time())
        # Its names have no @, as in AR@100.
        row = {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in values.items()}
        metrics = [self._metric(name, value, now, step) for name, value in row.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """See `Logger`."""
        self._client.set_terminated(self._id)


Maker = Callable[[pathlib.Path, Mapping[str, Any]], Logger]
BUILT_IN: Mapping[str, Maker] = {"wandb": WandbLogger, "mlflow": MlflowLogger}


def _folder(workdir: pathlib.Path) -> pathlib.Path:
    folder = workdir / "loggers"
    folder.mkdir(exist_ok=True)
    return folder


def _kept(file: pathlib.Path, make: Callable[[], str]) -> str:
    """Returns the id in a file, which is made and written where there is none."""
    if not file.exists():
        write_text(file, make())
    return file.read_text().strip()


def find_logger(name: str) -> Maker:
    """Returns what makes the logger of a name in `config.loggers`.

    Raises:
        UserError: its package is not installed, or the import path names no logger.
    """
    if is_import_path(name):
        make = import_part(_FIELD, name)
        check_call(_FIELD, name, make, "workdir", "config")
        return make
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{_FIELD}: {name} cannot be imported ({first_line(error)}); "
            f"pip install 'rpn-jax[{name}]', or leave it out"
        ) from error
    return BUILT_IN[name]


class Loggers:
    """The loggers of a run. No method waits for them but `close`, and that not for long."""

    def __init__(self, config: ConfigDict, workdir: pathlib.Path):
        fields = flatten(config)
        self._threads = [
            _LoggerThread(name, functools.partial(find_logger(name), workdir, fields))
            for name in config.loggers
        ]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Passes a row of metrics on."""
        for thread in self._threads:
            thread.rows.put((step, dict(values)))

    def close(self) -> None:
        """Lets the loggers send what is left, and says which could not."""
        for thread in self._threads:
            thread.rows.put(None)
        last = time.monotonic() + _CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, last - time.monotonic()))
            if thread.is_alive():
                thread.warn(f"has not sent everything within {_CLOSING_SECONDS:.0f} s of the end")


class _LoggerThread(threading.Thread):
    """Makes a logger and hands it the rows of a queue, until None or an error."""

    def __init__(self, name: str, make: Callable[[], Logger]):
        # A daemon: what hangs in it does not keep the process alive.
        super().__init__(name=name, daemon=True)
        self.rows: queue.SimpleQueue = queue.SimpleQueue()
        self._make = make
        self.start()

    def run(self) -> None:
        is_last = False
        try:
            logger = self._make()
            while row := self.rows.get():
                logger.log(*row)
            is_last = True
            logger.close()
        except (Exception, SystemExit) as error:
            problem = f"{type(error).__name__}: {first_line(error)}"
            self.warn(f"{problem}; the training goes on without it")
            while not is_last and self.rows.get():  # so that the rest takes no memory
                pass

    def warn(self, problem: str) -> None:
        """Says in a line what is wrong with this logger."""
        text = f"warning: {_FIELD}={self.name}: {problem}; metrics.jsonl has all metrics"
        with contextlib.suppress(OSError, ValueError):  # a closed stderr
            print(printable(text), file=sys.stderr, flush=True)
