"""The state of a run or a sweep, read from its folder without contact to its processes.

OUT/sweep.json        the definition: the runs in order, and what each changes
OUT/RUN/              an ordinary work folder of `train`
OUT/state/RUN/lock    held by the process that works at the run, training or not
OUT/state/RUN/job.json  the process or job of its last start
OUT/state/RUN/end.json  how that start ended, unless it was done
OUT/logs/RUN.log      output of its commands
OUT/logs/submitit/    submitit's own files
"""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import read_figures
from rpn_jax.files import regular, write_text
from rpn_jax.runs.best import last_step
from rpn_jax.runs.metrics import read_metrics
from rpn_jax.sweeps.evaluations import evaluation_folder, other_evaluations

STATES = ("done", "running", "failed", "stopped", "queued", "missing")
_RECENT_SECONDS = 300  # without locks, a run that wrote within this time counts as at work


class RunState(NamedTuple):
    """The state of a run.

    Fields:
      state: `missing` (not begun), `queued` (waits for Slurm), `running`, `done`, `stopped` (goes
        on when it is started again) or `failed` (does not go on by itself).
      step: last logged step.
      steps: number of steps in the config; 0 while the config is not known.
      reason: line that says why it stopped or failed, or None.
      loss: last training loss.
      rate: images per second.
      eta_s: remaining seconds of the training, while it is running.
      logged_s: seconds since the last row of its metrics.
      validation: figures of the last validation, `{"loss": …, "AR@100": …}`; `validated` is its
        step.
      figures: figures of `evaluate` at the last step, `{"AR@100": …}`; `headline` is the name of
        the one that counts most.
    """

    state: str
    step: int = 0
    steps: int = 0
    reason: str | None = None
    loss: float | None = None
    rate: float | None = None
    eta_s: float | None = None
    logged_s: float | None = None
    validated: int | None = None
    validation: Mapping[str, float] = {}
    figures: Mapping[str, float] = {}
    headline: str | None = None


def state_folder(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the folder in which a sweep keeps a run's launching state."""
    return workdir.parent / "state" / workdir.name


def log_file(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the file that a run of a sweep prints to."""
    return workdir.parent / "logs" / f"{workdir.name}.log"


def read_sweep(out: pathlib.Path) -> dict[str, Any] | None:
    """Returns the `sweep.json` of a folder, None if it has none.

    Keys: `config`, `fixed` and `given` (what all runs share), `fields` (what differs), `seed_field`
    (or None), `base` (the folder of the setting that the others are compared with), `published`
    (see `published`, or None), `evaluations` (fields by name) and `runs`, each with its `folder`,
    `setting` (the same without the seed) and `overrides`. Earlier versions have no `published` and
    no `evaluations`.

    Raises:
        UserError: it cannot be read.
    """
    file = out / "sweep.json"
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text())
        _check_record(record)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: is damaged ({error}); start the sweep again") from error
    return record


def _check_record(record: Any) -> None:
    """Raises a `ValueError` unless a `sweep.json` lists the folders of its runs."""
    if not has(record, {"runs": list}) or not all(has(r, {"folder": str}) for r in record["runs"]):
        raise ValueError("no runs, or one without a folder")
    if any(pathlib.PurePath(run["folder"]).name != run["folder"] for run in record["runs"]):
        raise ValueError("a run outside its folder")


def has(entry: Any, kinds: Mapping[str, Any]) -> bool:
    """Returns whether a JSON entry is an object with values of these kinds."""
    return isinstance(entry, dict) and all(
        name in entry and isinstance(entry[name], kind) for name, kind in kinds.items()
    )


def write_state(workdir: pathlib.Path, name: str, content: Mapping[str, Any]) -> None:
    """Writes `state/RUN/NAME.json`."""
    write_text(state_folder(workdir) / f"{name}.json", json.dumps(content))


def read_state(workdir: pathlib.Path, name: str) -> dict[str, Any]:
    """Returns what `write_state` wrote, {} if it wrote nothing."""
    return _load(state_folder(workdir) / f"{name}.json")


def _load(file: pathlib.Path) -> dict[str, Any]:
    regular(file)
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_run_state(workdir: pathlib.Path, queue: Mapping[str, str] | None = None) -> RunState:
    """Returns the state of a work folder's run, which need not be part of a sweep.

    A run of a sweep is done when it is evaluated after its last step, in all ways that the sweep
    has; any other run is done when its last step is saved. `queue` is the result of `slurm_queue`;
    without it, Slurm is asked if the run is a job of Slurm.
    """
    config, state = _load(workdir / "config.json"), state_folder(workdir)
    steps = config.get("steps", 0)
    final = _final(workdir)
    figures = final.get("scalars", {})
    in_sweep = (workdir.parent / "sweep.json").is_file()
    ends = workdir / "checkpoints" / str(_last_step(workdir, config))
    is_done = is_measured(workdir) if in_sweep else ends.is_dir()
    job, end = read_state(workdir, "job"), read_state(workdir, "end")
    in_queue = None
    if job.get("launcher") == "slurm" and not is_done:
        queue = slurm_queue() if queue is None else queue
        in_queue = (queue or {}).get(job["id"])

    reason = None
    if is_claimed(state) or is_claimed(workdir) or in_queue in _AT_WORK:
        name = "running"
    elif is_done:
        name = "done"
    elif in_queue:
        name = "queued"
    elif end:
        name, reason = end["state"], end["reason"]
    elif job:
        name, reason = "stopped", "killed with what had started it"
    elif not config and (workdir / "config.json").exists():
        name, reason = "failed", "config.json cannot be read; put it back"
    else:
        name = "stopped" if config else "missing"
    progress = _progress(workdir, config, is_running=name == "running")
    if name == "stopped" and progress.get("step") and not _has_checkpoints(workdir):
        reason = f"{reason}; " if reason else ""
        reason += "has no checkpoint, and would begin anew"
    state_of_run = RunState(
        name, steps=steps, reason=reason, figures=figures, headline=final.get("headline")
    )
    return state_of_run._replace(**progress)


def _has_checkpoints(workdir: pathlib.Path) -> bool:
    return any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*"))


def read_sweep_states(out: pathlib.Path) -> dict[str, RunState]:
    """Returns the state of each run of a sweep, by folder, in order.

    Raises:
        UserError: there is no sweep, or its `sweep.json` cannot be read.
    """
    record = read_sweep(out)
    if record is None:
        raise UserError(f"{out}: holds no sweep (it has no sweep.json); give the --out of one")
    workdirs = [out / run["folder"] for run in record["runs"]]
    on_slurm = any(read_state(workdir, "job").get("launcher") == "slurm" for workdir in workdirs)
    queue = (slurm_queue() or {}) if on_slurm else {}
    return {workdir.name: read_run_state(workdir, queue) for workdir in workdirs}


def is_measured(workdir: pathlib.Path) -> bool:
    """Returns whether a run of a sweep has the figures of all its evaluations."""
    try:
        others = other_evaluations(_load(workdir.parent / "sweep.json"))
    except ValueError:  # the report says that they are damaged
        others = {}
    return all(final_figures(workdir, name) for name in ("", *others))


def final_figures(workdir: pathlib.Path, evaluation: str = "") -> dict[str, float]:
    """Returns the figures of `evaluate` after the last step, {} if there are none.

    `evaluation` names another than the run's own.
    """
    return _final(workdir, evaluation).get("scalars", {})


def _final(workdir: pathlib.Path, evaluation: str = "") -> dict[str, Any]:
    """Returns what `evaluate` has written after the last step, {} if nothing."""
    config = _load(workdir / "config.json")
    if not config:
        return {}
    try:
        split = config["data"]["eval_split"]
        found = read_figures(evaluation_folder(workdir, split, evaluation))
    except (KeyError, OSError, TypeError, ValueError):  # of a damaged config, or damaged figures
        return {}
    return found if found and found.get("step") == _last_step(workdir, config) else {}


def _last_step(workdir: pathlib.Path, config: Mapping[str, Any]) -> Any:
    """Returns the step after which a run ends, by its `config.json`."""
    steps, evaluation = config.get("steps", 0), config.get("evaluation")
    patience = evaluation.get("patience") if isinstance(evaluation, dict) else None
    if not isinstance(steps, int) or not isinstance(patience, int):
        return steps
    return last_step(workdir, steps, patience)


def _progress(
    workdir: pathlib.Path, config: Mapping[str, Any], *, is_running: bool
) -> dict[str, Any]:
    file = workdir / "metrics.jsonl"
    rows = read_metrics(file)
    trained = [row for row in rows if "train/loss" in row]
    validated = [row for row in rows if "validation/loss" in row]
    found = {}
    if trained:
        last = trained[-1]
        rates = [row[name] for row in trained if (name := "train/images_per_second") in row]
        found = {"step": last["step"], "loss": last["train/loss"], "rate": (rates or [None])[-1]}
        found["logged_s"] = max(time.time() - file.stat().st_mtime, 0.0)
        if is_running and rates and has(config, {"steps": int, "batch_size": int}):
            left = (config["steps"] - last["step"]) * config["batch_size"]
            found["eta_s"] = left / rates[-1]
    if validated:
        found["validated"] = validated[-1]["step"]
        found["validation"] = {
            name.removeprefix("validation/"): value
            for name, value in validated[-1].items()
            if name.startswith("validation/")
        }
    return found


@contextlib.contextmanager
def claim(folder: pathlib.Path) -> Iterator[bool]:
    """Takes the lock of a folder, `folder/lock`, and yields whether it was free.

    The lock ends with the process that holds it; the file names the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with regular(folder / "lock").open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError:
            pass  # a file system without locks; `train` warns about it
        file.truncate(0)
        file.write(f"{os.getpid()} {platform.node()}\n")
        file.flush()
        yield True


def is_claimed(folder: pathlib.Path) -> bool:
    """Returns whether a process, here or on another node, holds the lock of a folder.

    The process that holds the lock must not call this: it would release the lock.
    """
    try:
        with regular(folder / "lock").open() as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        metrics = folder / "metrics.jsonl"
        return metrics.exists() and time.time() - metrics.stat().st_mtime < _RECENT_SECONDS


# squeue's states of jobs that have a node.
_AT_WORK = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING")


def slurm_queue() -> dict[str, str] | None:
    """Returns the state of each of the user's jobs in Slurm's queue, by id (`12` or `12_3`).

    squeue answers, not sacct as in submitit: clusters without accounting have no sacct. Returns
    None if squeue cannot be called.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split() for line in answer.stdout.splitlines() if line.strip())
