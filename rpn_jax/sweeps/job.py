"""The process of one run of a sweep: `train`, then `evaluate`, each as a user would start it."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import submitit

from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.sweeps.evaluations import evaluation_folder
from rpn_jax.sweeps.hyperparameters import write_hyperparameters
from rpn_jax.sweeps.runs import (
    claim,
    final_figures,
    is_measured,
    log_file,
    state_folder,
    write_state,
)

# Signals from outside: the run is sound, and goes on when it is started again.
_STOPPED_BY = ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM", "SIGUSR1", "SIGUSR2")
_STOP_STATUS = (os.EX_TEMPFAIL, 130)  # saved and stopped, by a signal or by Ctrl-C
SAVE_SECONDS = 120  # time for a run to save and stop before its job's time limit


@dataclasses.dataclass
class RunJob:
    """The job that submitit starts for a run of a sweep, and again whenever Slurm requeues it.

    Attributes:
      workdir: work folder of the run.
      flags: flags of `train`, without --workdir.
      fields: config fields to show as hyper-parameters in TensorBoard.
      cores: CPU cores to use, None for all of the process; XLA chooses its threads accordingly.
      environment: variables to set; those that are None are removed.
      evaluations: flags of `evaluate` for each evaluation that is not the run's own, by its name.
    """

    workdir: pathlib.Path
    flags: list[str]
    fields: list[str]
    cores: tuple[int, ...] | None = None
    environment: dict[str, str | None] = dataclasses.field(default_factory=dict)
    evaluations: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    _process = None
    _is_stopped = False

    def __call__(self) -> None:
        """Trains and evaluates what is missing of the run, unless another process works at it."""
        # Replaces submitit's handler, which does nothing: the run saves, then this process ends.
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        with claim(state_folder(self.workdir)) as is_ours:
            if is_ours and not is_measured(self.workdir):
                self._work()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Stops the run after a save, so that submitit requeues it before Slurm ends the job."""
        self._stop()
        deadline = time.monotonic() + SAVE_SECONDS
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(dataclasses.replace(self))

    def _stop(self) -> None:
        self._is_stopped = True
        if self._process:
            self._process.terminate()

    def _work(self) -> None:
        (state_folder(self.workdir) / "end.json").unlink(missing_ok=True)
        if self.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)
        for command in self._commands():
            end = self._run([*command, f"--workdir={self.workdir}"])
            if end or self._is_stopped:
                state, reason = end or ("stopped", None)
                write_state(self.workdir, "end", {"state": state, "reason": reason})
                return
        write_hyperparameters(self.workdir, self.fields)

    def _commands(self) -> Iterator[list[str]]:
        """Yields what is missing; the folder of an evaluation is known after `train`."""
        if not final_figures(self.workdir):
            yield ["train", *self.flags]
        for name, flags in {"": [], **self.evaluations}.items():
            if not final_figures(self.workdir, name):
                split = load_workdir_config(self.workdir).data.eval_split
                out = evaluation_folder(self.workdir, split, name)
                yield ["evaluate", *([f"--out={out}"] if name else []), *flags]

    def _run(self, command: list[str]) -> tuple[str, str | None] | None:
        """Returns the state and reason of a command that failed, None if it succeeded."""
        environment = {**os.environ, **self.environment}
        environment = {name: value for name, value in environment.items() if value is not None}
        file = log_file(self.workdir)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rpn_jax", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            if self._is_stopped:  # by a signal before the process started
                self._process.terminate()
            # Not wait(): `checkpoint`, a signal handler, could not call it again.
            while (status := self._process.poll()) is None:
                time.sleep(0.2)
        if status == 0:
            return None
        if status in _STOP_STATUS:
            return "stopped", None
        with file.open("rb") as log:
            log.seek(begin)
            printed = log.read().decode(errors="replace")
        return explain_end(status, printed, is_stopped=self._is_stopped)


def explain_end(status: int, printed: str, *, is_stopped: bool) -> tuple[str, str | None]:
    """Returns the state of a run whose command ended with a status other than 0, and the reason.

    The reason is the last error in `printed`, the command's output, or else its last line.
    `is_stopped` is True if the command was asked to end.
    """
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        if name in _STOPPED_BY:
            return "stopped", None if is_stopped else f"killed by {name}{hint}"
        return "failed", f"killed by {name}"
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return "failed", (errors or lines or [f"ended with status {status}"])[-1]
