"""Several processes as one run: they join, exchange values, and stop together."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rpn_jax.errors import StoppedError, UserError, first_line
from rpn_jax.runs.lost import told_by_jax

_PATIENCE = 10  # seconds of waiting for the others, after which a line says so

# Variables of launchers: the number of processes of the job, and of those on this node.
_TASKS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# Of what srun or mpirun started, not of the job that a batch script or a shell has.
_TASKS_OF_STEP = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_TASKS_ON_NODE = ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    join_seconds: int = 300,
    heartbeat_seconds: int = 60,
) -> None:
    """Joins the other processes of the job, if there are any; must come before any use of devices.

    On Slurm, Open MPI, GKE and TPU pods JAX finds them without arguments. Elsewhere all three must
    be given: address and a free port of the first process, the number of processes, and the number
    of this one, from 0. With `num_processes=1` a process is alone anywhere.

    A process that is alone on its node gets all of the node's accelerators; processes that share a
    node get one each. If the others are missing after `join_seconds`, the process ends with a line
    and the status 75, upon which schedulers start it again. It does so later too, when one of the
    others is killed or does not answer for `heartbeat_seconds`.

    Raises:
        UserError: only some of the three are given, or the others cannot be reached.
    """
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if num_processes == 1 or jax.distributed.is_initialized():
        return
    if missing and len(missing) < len(given):
        raise UserError(f"{', '.join(missing)}: missing; give all of {', '.join(given)}, or none")
    if missing and _first_of(_TASKS) == "1":
        return
    shares_node = _first_of(_TASKS_ON_NODE).partition("(")[0] not in ("", "1")
    try:
        with _waiting(join_seconds), told_by_jax():
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                # None: one accelerator for each process of a node; an empty list: all of them.
                local_device_ids=None if shares_node and not coordinator else [],
                # After our own limit: JAX then aborts with a C++ stack.
                initialization_timeout=join_seconds + 60,
                heartbeat_timeout_seconds=heartbeat_seconds,
            )
    except Exception as error:
        # From version 5 on, Open MPI does not tell the address of the first process.
        no_cluster = isinstance(error, ValueError) and "OMPI_COMM_WORLD_SIZE" not in os.environ
        in_use = "must be called before" in str(error)  # by a caller who has settled this
        if missing and (no_cluster or in_use):
            return
        raise UserError(
            f"the other processes of this job cannot be joined: {first_line(error)}; give "
            f"{', '.join(given)}, or --num_processes=1 to use this process alone"
        ) from error


def check_alone(command: str) -> None:
    """Raises a `UserError` if this process is one of several of a job, joined or not yet."""
    count = max(jax.process_count(), int(_first_of(_TASKS_OF_STEP) or 1))
    if count > 1:
        raise UserError(
            f"{command}: is one of {count} processes of a job, but works in one, on all devices of "
            "its machine; start it once, or give its steps one by one (train, propose, "
            "export-weights)"
        )


@contextlib.contextmanager
def _waiting(seconds: int) -> Iterator[None]:
    """Prints a line if the block waits long for other processes; at the limit ends this process."""

    def tell():
        line = f"waiting for the other processes of this job, at most {seconds} s in all"
        print(line, file=sys.stderr, flush=True)

    def give_up():
        print(
            f"error: the other processes of this job have not come in {seconds} s; start them all, "
            "with the same --coordinator and --num_processes, or give a larger --join_seconds",
            file=sys.stderr,
            flush=True,
        )
        os._exit(os.EX_TEMPFAIL)

    timers = [threading.Timer(_PATIENCE, tell), threading.Timer(seconds, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _first_of(variables: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in variables if name in os.environ), "")


def is_first() -> bool:
    """Returns whether this is the first process, which writes logs and files for all."""
    return jax.process_index() == 0


def gather(value: Any) -> list:
    """Returns the JSON `value` of each process, in their order; all must call it together."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs a block in every process; a `UserError` in one of them ends all.

    The first process then raises the error of the one that failed; the others exit.
    """
    error = None
    try:
        yield
    except UserError as raised:
        if jax.process_count() == 1:
            raise
        error = str(raised)
    failed = [(number, text) for number, text in enumerate(gather(error)) if text]
    if failed and is_first():
        number, text = failed[0]
        raise UserError(text if number == 0 else f"process {number}: {text}")
    if failed:
        os._exit(1)  # without a word, and without waiting for the first


def on_first(function: Callable[[], Any]) -> Any:
    """Calls `function` in the first process; returns its result, a JSON value, in every process.

    Its `UserError` ends all processes, see `together`.
    """
    with together():
        value = function() if is_first() else None
    return gather(value)[0]


class StopRequest:
    """A signal's request that the run stop; used as `with StopRequest() as stop`.

    Schedulers and clouds send SIGTERM before they take a machine away; SIGUSR1 is Slurm's warning
    (`sbatch --signal`); SIGINT is Ctrl-C, and a second one interrupts at once. Of several processes
    one may get the signal; JAX then makes all agree on a step to stop at.

    One within another hands on a signal that came too late for its own block.

    Where there is no step to finish, a lone process stops at once, by a `StoppedError`: before the
    first step (until `steps_begin`), and within `at_once`.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._previous = {}
        self._stops_at_once, self._where = True, "before the first step"

    def __enter__(self) -> "StopRequest":
        numbers = [signal.SIGINT, signal.SIGUSR1]
        if not jax.distributed.is_initialized():
            numbers.append(signal.SIGTERM)  # JAX itself waits for it otherwise
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, kind, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        outer = getattr(self._previous.get(self.signal), "__self__", None)
        if kind is None and isinstance(outer, StopRequest):
            outer._receive(self.signal, None)  # this block ended before it heeded the signal

    def _receive(self, number: int, frame) -> None:
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._stops_at_once:
            raise self.stopped(self._where)

    def stopped(self, where: str) -> StoppedError:
        """Returns the error that ends a run where it was asked to stop."""
        return StoppedError(f"stopped {where}", interrupted=self.signal == signal.SIGINT)

    def steps_begin(self) -> None:
        """Makes later signals wait until the step is finished and its state saved."""
        self._stops_at_once = False

    @contextlib.contextmanager
    def at_once(self, where: str) -> Iterator[None]:
        """Makes a signal within the block raise a `StoppedError` with `where` in its message."""
        before = self._stops_at_once, self._where
        self._stops_at_once, self._where = True, where
        try:
            yield
        finally:
            self._stops_at_once, self._where = before

    def reached(self, step: int) -> bool:
        """Returns whether the run should stop after this step; call it after every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self.signal is not None
