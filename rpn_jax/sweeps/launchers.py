"""Launchers of a sweep's runs by submitit: as processes of this machine, or as jobs of Slurm."""

import contextlib
import io
import math
import os
import pathlib
import platform
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import submitit

from rpn_jax.errors import UserError, first_line
from rpn_jax.sweeps.job import SAVE_SECONDS, RunJob
from rpn_jax.sweeps.runs import is_claimed, slurm_queue, state_folder, write_state

_YEAR_MINUTES = 365 * 24 * 60
_MANY = 10_000  # stands for no limit


class Launcher:
    """Base class of the two launchers below.

    Attributes:
      pause: seconds between looks at the runs.
      goes_on: whether runs go on without the launcher.
    """

    pause: float
    goes_on: bool

    def room(self, active: int) -> int:
        """Returns how many more runs may be started while `active` are at work."""
        return _MANY

    def submit(self, jobs: Sequence[RunJob]) -> None:
        """Starts the runs and records the process or job of each."""
        raise NotImplementedError

    def queue(self) -> Mapping[str, str]:
        """Returns the state of each job of Slurm that waits or runs, by id."""
        return {}

    def is_alive(self, workdir: pathlib.Path) -> bool:
        """Returns whether this launcher's process of the run is alive."""
        return False

    def stop(self, workdirs: Sequence[pathlib.Path]) -> None:
        """Asks runs that need the launcher to save and stop."""


class LocalLauncher(Launcher):
    """Processes of this machine, at most `jobs` at once, each on its share of cores and GPUs."""

    pause = 1.0
    goes_on = False

    def __init__(self, out: pathlib.Path, jobs: int = 1):
        if jobs < 1:
            raise UserError(f"--jobs={jobs}: give at least 1")
        self._folder = _submitit_folder(out)
        self._shares = machine_shares(jobs)
        self._jobs: dict[pathlib.Path, submitit.Job] = {}
        self._share_of: dict[pathlib.Path, int] = {}

    def room(self, active: int) -> int:
        """Returns `jobs` less the active runs."""
        return max(len(self._shares) - active, 0)

    def submit(self, jobs: Sequence[RunJob]) -> None:
        """Starts a process for each run, on a free share of the machine."""
        executor = submitit.LocalExecutor(self._folder)
        executor.update_parameters(timeout_min=_YEAR_MINUTES)
        for job in jobs:
            taken = {self._share_of[path] for path in self._jobs if self.is_alive(path)}
            share = min(set(range(len(self._shares))) - taken, default=0)
            self._share_of[job.workdir] = share
            job.cores, job.environment = self._shares[share]
            # Ctrl-C in the terminal must reach the launcher and `train`, not the process between.
            previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self._jobs[job.workdir] = submitted = executor.submit(job)
            finally:
                signal.signal(signal.SIGINT, previous)
            write_state(job.workdir, "job", {"launcher": "local", "id": submitted.job_id})

    def is_alive(self, workdir: pathlib.Path) -> bool:
        """Returns whether the run's process is alive."""
        return workdir in self._jobs and not self._jobs[workdir].done()

    def stop(self, workdirs: Sequence[pathlib.Path]) -> None:
        """Sends SIGTERM to the runs of this launcher, and of earlier ones."""
        for workdir in workdirs:
            if self.is_alive(workdir):
                process = int(self._jobs[workdir].job_id)
            elif is_claimed(state_folder(workdir)):  # started by an earlier launcher
                process, host = (state_folder(workdir) / "lock").read_text().split()
                if host != platform.node():
                    continue
            else:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGTERM)


class SlurmLauncher(Launcher):
    """Jobs of Slurm, as one array; at most `jobs` of them run at once.

    Slurm requeues a job when its node fails or the job is preempted; submitit requeues it at its
    time limit. The run then goes on from its last checkpoint. `options` are sbatch's, by name.
    """

    pause = 5.0
    goes_on = True

    def __init__(
        self,
        out: pathlib.Path,
        jobs: int | None = None,
        *,
        minutes: int = 240,
        options: Mapping[str, Any] | None = None,
    ):
        if jobs is not None and jobs < 1:
            raise UserError(f"--jobs={jobs}: give at least 1")
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise UserError("--launcher=slurm: there is no sbatch here; start it on a login node")
        if minutes * 60 <= 2 * SAVE_SECONDS:
            raise UserError(f"--slurm_time={minutes}: give more minutes than a run takes to save")
        self._executor = submitit.SlurmExecutor(_submitit_folder(out), max_num_timeout=_MANY)
        self._executor.update_parameters(
            job_name="rpn_jax",
            time=minutes,
            nodes=1,
            ntasks_per_node=1,
            array_parallelism=jobs or _MANY,
            # `train` does not handle submitit's own signal.
            setup=["export SUBMITIT_PREEMPT_SIGNAL=USR1"],
            additional_parameters={
                "signal": f"USR1@{SAVE_SECONDS}",
                "requeue": True,
                **(options or {}),
            },
        )
        self._queue = slurm_queue()
        if self._queue is None:
            raise UserError("--launcher=slurm: squeue does not answer; try `squeue --me`")

    def queue(self) -> Mapping[str, str]:
        """Returns what squeue says now, or said last."""
        answer = slurm_queue()
        if answer is not None:  # the controller may be gone for a while
            self._queue = answer
        return self._queue

    def submit(self, jobs: Sequence[RunJob]) -> None:
        """Queues them together, so that Slurm sees to `jobs` at once."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                submitted = self._executor.submit_array(jobs)
        except (submitit.core.utils.FailedJobError, RuntimeError) as error:
            raise UserError(
                f"--launcher=slurm: {first_line(error)}; see the --slurm_… flags"
            ) from error
        for job, slurm_job in zip(jobs, submitted, strict=True):
            write_state(job.workdir, "job", {"launcher": "slurm", "id": slurm_job.job_id})


def _submitit_folder(out: pathlib.Path) -> pathlib.Path:
    return out.resolve() / "logs" / "submitit"


Share = tuple[tuple[int, ...] | None, dict[str, str | None]]


def machine_shares(jobs: int) -> list[Share]:
    """Returns the CPU cores, and the variables that name the GPUs, of each of so many runs.

    Where there are more runs than GPUs, some share one and its memory.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    gpus = _visible_gpus()
    shares = []
    for number in range(jobs):
        # submitit hides the GPUs by this variable; with one run at a time it is as it was.
        environment = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
        if gpus and jobs > 1:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(_part(gpus, number, jobs))
        if gpus and jobs > len(gpus) and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            fraction = 0.75 / math.ceil(jobs / len(gpus))  # 0.75: what JAX takes by default
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{fraction:.2f}"
        shares.append((tuple(_part(cores, number, jobs)) if cores else None, environment))
    return shares


def _part(items: Sequence, number: int, parts: int) -> Sequence:
    """Returns one of several equal parts, of one item where there are fewer of them."""
    begin = len(items) * number // parts
    return items[begin : max(len(items) * (number + 1) // parts, begin + 1)]


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split()
