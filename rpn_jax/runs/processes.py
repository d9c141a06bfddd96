"""Several processes as one run: how they find each other, agree on things, and stop together."""

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

# A process that does not answer for so long is given up, and the others with it.
_HEARTBEAT_SECONDS = 60

_PATIENCE = 10  # seconds, after which waiting for the others is told

# What launchers tell each process: of how many it is one, and how many of them share its node.
_TASKS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_TASKS_ON_NODE = ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    join_seconds: int = 300,
) -> None:
    """Joins the other processes of the job, if there are any; must come before any use of devices.

    Without arguments they are found by JAX itself on Slurm, Open MPI, GKE and TPU pods. Elsewhere
    all three must be given: the first process's address and a free port of it, how many there are,
    and the number of this one, from 0. `num_processes=1` keeps a process to itself anywhere.

    A task that has its node to itself gets all of the node's accelerators; where several share one,
    each gets its own. If the others have not come after `join_seconds`, the process ends with a
    line and the status 75, by which schedulers start it again.

    Raises:
        UserError: some of the three are given but not all, or the others cannot be reached.
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
        with _waiting(join_seconds):
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                # None is one accelerator for each process of a node, an empty list all there are.
                local_device_ids=None if shares_node and not coordinator else [],
                # Later than ours: JAX's own end is an abort with a C++ stack.
                initialization_timeout=join_seconds + 60,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            )
    except Exception as error:
        # Open MPI from version 5 on does not tell where the first process is.
        no_cluster = isinstance(error, ValueError) and "OMPI_COMM_WORLD_SIZE" not in os.environ
        in_use = "must be called before" in str(error)  # by a caller who has settled this
        if missing and (no_cluster or in_use):
            return
        raise UserError(
            f"the other processes of this job cannot be joined: {first_line(error)}; give "
            f"{', '.join(given)}, or --num_processes=1 to use this process alone"
        ) from error


@contextlib.contextmanager
def _waiting(seconds: int) -> Iterator[None]:
    """Tells that the block waits for other processes, and ends this one when it waits too long."""

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
    """Returns whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def gather(value: Any) -> list:
    """Returns the JSON `value` of every process, in their order; all must call it together."""
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
    """All processes get beyond the block or none: a `UserError` in one of them ends all.

    The first process then raises the error of the one that failed; the others just exit.
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
    """Whether a signal has asked the run to stop; used as `with StopRequest() as stop`.

    SIGTERM is what schedulers and clouds send before they take a machine away; SIGUSR1 is Slurm's
    warning (`sbatch --signal`), SIGINT is Ctrl-C, which a second time interrupts at once. With
    several processes one of them may be told, and JAX lets all agree on a step to stop at.

    A lone process stops at once, by a `StoppedError`, where there is no step to finish: before the
    first (`steps_begin` says when that is) and within `at_once`.
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

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

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
        """From now on a step is finished, and its state saved, before the run stops."""
        self._stops_at_once = False

    @contextlib.contextmanager
    def at_once(self, where: str) -> Iterator[None]:
        """Within the block a signal raises the `StoppedError` that names `where` it arrived."""
        before = self._stops_at_once, self._where
        self._stops_at_once, self._where = True, where
        try:
            yield
        finally:
            self._stops_at_once, self._where = before

    def reached(self, step: int) -> bool:
        """Returns whether the run should stop after this step; to be asked at every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self.signal is not None
