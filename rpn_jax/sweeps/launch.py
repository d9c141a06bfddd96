"""Launching a sweep: missing runs are started, running ones are watched.

The state of every run is in files (see `runs`), so that a launcher that was killed and is started
again finds the runs that are done, at work and missing.
"""

import json
import pathlib
import signal
import sys
import time
from collections.abc import Sequence

from ml_collections import ConfigDict

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.errors import StoppedError, UserError, list_some
from rpn_jax.files import write_text
from rpn_jax.parts import import_part
from rpn_jax.runs.config_files import differences, from_json
from rpn_jax.runs.fields import own_parts
from rpn_jax.runs.processes import StopRequest
from rpn_jax.sweeps.definition import Plan
from rpn_jax.sweeps.evaluations import evaluation_folder, other_evaluations
from rpn_jax.sweeps.job import RunJob
from rpn_jax.sweeps.launchers import Launcher
from rpn_jax.sweeps.runs import RunState, claim, read_run_state, read_sweep, state_folder
from rpn_jax.sweeps.tables import Progress
from rpn_jax.text import printable

_ACTIVE = ("running", "queued")


def run_sweep(
    plan: Plan, out: pathlib.Path, launcher: Launcher, *, retry: bool = False
) -> dict[str, RunState]:
    """Runs what is missing of a sweep; returns the final state of its runs by folder.

    Failed runs are started again only with `retry`. Each run is started at most once.

    Raises:
        UserError: the folder has a run of another config, another launcher is at work there, the
            data cannot be prepared, or Slurm does not take the jobs; nothing was started.
        StoppedError: a signal asked the launcher to stop; runs on this machine have saved.
    """
    out = out.resolve()
    check_folders(plan, out)
    check_evaluations_of(plan, out)
    import_parts(plan.configs)
    prepare_data(plan.configs)
    with claim(out) as is_ours:
        if not is_ours:
            raise UserError(f"--out={out}: a launcher is at work there; wait for its end")
        note_left_out(plan, out)
        write_text(out / "sweep.json", plan.record_json())
        return _Launch(plan, out, launcher, retry).run()


def check_folders(plan: Plan, out: pathlib.Path) -> None:
    """Raises a `UserError` that names the fields if a run in `out` has another config."""
    for run, config in zip(plan.runs, plan.configs, strict=True):
        file = out / run.folder / "config.json"
        if not file.is_file():
            continue
        differing = differences(config, from_json(file.read_text(), str(file)))
        if differing:
            raise UserError(
                f"{file.parent}: was begun with another config ({list_some(differing, 3)}); give "
                "another --out, or remove it to run it anew"
            )


def check_evaluations_of(plan: Plan, out: pathlib.Path) -> None:
    """Raises a `UserError` if a run in `out` was measured otherwise under an evaluation's name."""
    try:
        before = other_evaluations(read_sweep(out) or {})
    except (UserError, ValueError):
        return  # it is damaged, and is written anew
    now = other_evaluations(json.loads(plan.record_json()))
    for name in (name for name in now if before.get(name, now[name]) != now[name]):
        for run, config in zip(plan.runs, plan.configs, strict=True):
            folder = evaluation_folder(out / run.folder, config.data.eval_split, name)
            if folder.exists():
                raise UserError(
                    f"{folder}: was measured with other fields ({before[name]}); give the "
                    "evaluation another name, or remove the folder to measure anew"
                )


def note_left_out(plan: Plan, out: pathlib.Path) -> None:
    """Names on stderr the runs begun in `out` by an earlier sweep that are not in this one."""
    try:
        before = [run["folder"] for run in (read_sweep(out) or {"runs": []})["runs"]]
    except UserError:
        return  # it is damaged, and is written anew
    now = {run.folder for run in plan.runs}
    begun = [name for name in before if name not in now and (out / name / "config.json").is_file()]
    if begun:
        print(
            f"{printable(out)}: holds runs of another sweep ({list_some(begun, 3)}), "
            "which status and report do not show any more; give another --out to keep both",
            file=sys.stderr,
        )


def import_parts(configs: Sequence[ConfigDict]) -> None:
    """Raises a `UserError` unless what the configs name by import paths can be imported."""
    for field, path in dict.fromkeys(part for one in configs for part in own_parts(one).items()):
        import_part(f"config.{field}", path)


def prepare_data(configs: Sequence[ConfigDict]) -> None:
    """Prepares each dataset of the configs that is not prepared yet.

    Raises:
        UserError: as `prepare_dataset` and `open_dataset`.
    """
    for data in {json.dumps(config.data.to_dict()): config.data for config in configs}.values():
        for source in (data.source, *data.more_sources):
            place = {"data_dir": data.data_dir, "source": source, **data.options.to_dict()}
            splits = [data.train_split, *([data.eval_split] if source == data.source else [])]
            try:
                for split in splits:
                    open_dataset(data.dataset, split, **place)
            except UserError:
                print(prepare_dataset(data.dataset, **place))
                for split in splits:
                    open_dataset(data.dataset, split, **place)


class _Launch:
    """The loop of `run_sweep`."""

    def __init__(self, plan: Plan, out: pathlib.Path, launcher: Launcher, retry: bool):
        self._plan = plan
        self._workdirs = {run.folder: out / run.folder for run in plan.runs}
        self._launcher = launcher
        self._wanted = {"missing", "stopped", *(["failed"] if retry else [])}
        self._tried = set()
        self._states: dict[str, RunState] = {}

    def run(self) -> dict[str, RunState]:
        self._look()
        steps = {
            run.folder: config.steps
            for run, config in zip(self._plan.runs, self._plan.configs, strict=True)
        }
        with StopRequest() as stop, Progress(self._states, steps) as progress:
            stop.steps_begin()  # the loop hands a signal on to the runs, and waits for them
            while True:
                active = self._look()
                if stop.signal:
                    if self._launcher.goes_on or not active:
                        break
                    self._launcher.stop([self._workdirs[name] for name in active])
                else:
                    waiting = [
                        name
                        for name, state in self._states.items()
                        if state.state in self._wanted and name not in self._tried
                    ]
                    batch = waiting[: self._launcher.room(len(active))]
                    if not batch and not active:
                        break
                    self._start(batch)
                progress.show(self._states)
                time.sleep(self._launcher.pause)
            progress.show(self._states)
        if stop.signal:
            raise StoppedError(
                f"stopped; {len(active)} jobs stay in Slurm's queue" if active else "stopped",
                interrupted=stop.signal == signal.SIGINT,
            )
        return self._states

    def _look(self) -> list[str]:
        """Reads the states of the runs; returns the runs at work or in the queue."""
        queue = self._launcher.queue()
        for name, workdir in self._workdirs.items():
            if name in self._states and self._states[name].state == "done":
                continue
            state = read_run_state(workdir, queue)
            if self._launcher.is_alive(workdir):
                state = state._replace(state="running", reason=None)
            self._states[name] = state
        return [name for name, state in self._states.items() if state.state in _ACTIVE]

    def _start(self, names: Sequence[str]) -> None:
        if not names:
            return
        runs = {run.folder: run for run in self._plan.runs}
        for name in names:
            # The end of an earlier start does not count any more.
            (state_folder(self._workdirs[name]) / "end.json").unlink(missing_ok=True)
        self._launcher.submit(
            [
                RunJob(
                    self._workdirs[name],
                    self._plan.flags(runs[name]),
                    self._plan.fields,
                    evaluations=self._plan.evaluations,
                )
                for name in names
            ]
        )
        self._tried.update(names)
