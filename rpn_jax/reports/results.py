"""The results in the folders of runs, gathered for a report."""

import itertools
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rpn_jax.errors import UserError
from rpn_jax.reports.evaluations import Evaluation, read_evaluation
from rpn_jax.runs.best import last_step
from rpn_jax.runs.history import Run as History
from rpn_jax.runs.history import read_run
from rpn_jax.runs.metrics import read_metrics
from rpn_jax.sweeps.definition import settings
from rpn_jax.sweeps.evaluations import evaluation_folder, measured_settings, other_evaluations
from rpn_jax.sweeps.published import Published, read_published
from rpn_jax.sweeps.runs import RunState, has, read_run_state, read_sweep
from rpn_jax.text import shell_line

# Fields that may differ between runs of one setting.
_NO_SETTING = ("seed", "data.data_dir", "data.num_threads")


_MOST_FIELDS = 4  # most fields with a column in a table


class Result(NamedTuple):
    """A run of a study.

    Fields:
      name: name of its folder, unique in the study.
      folder: path of its folder.
      setting: name of its setting; equal for runs that differ by the seed alone.
      overrides: value of each field that differs in the study, the seed included.
      seed: seed of the run.
      state: state of the run.
      history: config and starts; None if it was never begun.
      rows: rows of its metrics.
      evaluation: results of `evaluate`, or None.
      remark: reason why the study's figures do not count it; None if they do.
    """

    name: str
    folder: pathlib.Path
    setting: str
    overrides: dict[str, Any]
    seed: Any
    state: RunState
    history: History | None
    rows: list[dict[str, Any]]
    evaluation: Evaluation | None
    remark: str | None

    def seconds(self) -> float | None:
        """Returns the training time in seconds, over all starts with a remaining step."""
        total = last = 0.0
        for seconds in self.logged("seconds"):
            if seconds < last:
                total += last
            last = seconds
        return total + last or None

    def costs(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Returns seconds of training and of evaluation, images per second, bytes of memory."""
        rates, memory = self.logged("images_per_second"), self.logged("peak_memory_bytes")
        return (
            self.seconds(),
            self.evaluation and self.evaluation.figures.get("seconds"),
            float(np.median(rates)) if rates else None,
            max(memory, default=None),
        )

    def logged(self, name: str) -> list[float]:
        """Returns the values of a training metric, in order of steps."""
        return [float(row[f"train/{name}"]) for row in self.rows if f"train/{name}" in row]


class Study(NamedTuple):
    """Runs to be reported on together.

    Fields:
      title: title of the report.
      fields: fields that differ between settings, without the seed.
      base: setting that the others are compared with.
      runs: runs in order.
      published: figures of somebody else, of some of the settings, or None.
      evaluations: fields of each evaluation by name, where a sweep has several; each of them is a
        run of a setting of its own here, of which only the run's own evaluation was trained.
    """

    title: str
    fields: tuple[str, ...]
    base: str
    runs: tuple[Result, ...]
    published: Published | None = None
    evaluations: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({})

    @property
    def counted(self) -> list[Result]:
        """The runs whose figures count."""
        return [run for run in self.runs if run.remark is None]

    @property
    def settings(self) -> dict[str, list[Result]]:
        """All runs of each setting, in order."""
        grouped: dict[str, list[Result]] = {}
        for run in self.runs:
            grouped.setdefault(run.setting, []).append(run)
        return grouped

    @property
    def published_pairs(self) -> list[tuple[str, str]]:
        """All pairs of settings with published figures and counted runs, in order."""
        values = self.published.values if self.published else {}
        counted = dict.fromkeys(run.setting for run in self.counted if run.setting in values)
        return list(itertools.combinations(counted, 2))

    @property
    def label_names(self) -> list[str]:
        """Columns that describe a setting: its fields, and its name if that says more."""
        told = all(
            name == settings([self._values(name)]).settings[0].name for name in self.settings
        )
        is_short = 0 < len(self.fields) <= _MOST_FIELDS
        return [*([] if told and is_short else ["setting"]), *(self.fields if is_short else ())]

    def labels(self, setting: str) -> list[str]:
        """Returns a setting's value of each of `label_names`."""
        values = {"setting": setting, **self._values(setting)}
        return [_text(values.get(name, "–")) for name in self.label_names]

    def _values(self, setting: str) -> dict[str, Any]:
        overrides = self.settings[setting][0].overrides
        return {field: overrides[field] for field in self.fields if field in overrides}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_text, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def gather(folders: Sequence[pathlib.Path]) -> Study:
    """Returns the runs in the folders; a folder is a run, a sweep, or a parent of runs.

    Raises:
        UserError: a folder holds no runs, or no run was evaluated.
    """
    sweep = read_sweep(folders[0]) if len(folders) == 1 else None
    study = _sweep_study(folders[0], sweep) if sweep else _plain_study(folders)
    if not study.counted:
        first, *others = study.runs
        more = f" (and {len(others)} more)" if others else ""
        raise UserError(
            f"{folders[0]}: nothing to report on{more}: run {first.name}: {first.remark}"
        )
    return study


def _sweep_study(out: pathlib.Path, sweep: dict[str, Any]) -> Study:
    of_runs = {"setting": str, "overrides": dict}
    if (
        not has(sweep, {"fields": list, "base": str, "seed_field": str | None})
        or not all(has(row, of_runs) for row in sweep["runs"])
        or sweep["base"] not in {row["folder"] for row in sweep["runs"]}
    ):
        raise UserError(f"{out / 'sweep.json'}: is damaged (no base); start the sweep again")
    try:
        published = read_published(sweep.get("published"))
        others = other_evaluations(sweep)
    except ValueError as error:
        raise UserError(
            f"{out / 'sweep.json'}: is damaged ({error}); start the sweep again"
        ) from error
    evaluations = sweep.get("evaluations") or {"": {}}
    settings_of = measured_settings(
        (row["setting"] for row in sweep["runs"]), [name for name in evaluations if name]
    )
    seed_field, runs = sweep["seed_field"], []
    for row in sweep["runs"]:
        overrides = row["overrides"]
        seed = overrides.get(seed_field)
        for name in evaluations:
            setting = settings_of[row["setting"], name]
            of_other = name if name in others else ""
            runs.append(_read_result(out / row["folder"], setting, overrides, seed, of_other))
    own = next((name for name in evaluations if name not in others), "")
    base = next(row["setting"] for row in sweep["runs"] if row["folder"] == sweep["base"])
    fields = tuple(field for field in sweep["fields"] if field != seed_field)
    return Study(
        out.resolve().name,
        fields,
        settings_of[base, own],
        _with_remarks(runs),
        published,
        evaluations if others else {},
    )


def _plain_study(folders: Sequence[pathlib.Path]) -> Study:
    places = [place for folder in folders for place in _run_folders(folder)]
    histories = [read_run(place) for place in places]
    configs = [history.config for history in histories]
    differing = [
        field
        for field in configs[0]
        if field not in _NO_SETTING
        and any(config.get(field) != configs[0][field] for config in configs)
    ]
    names = _unique_names(places)
    runs = []
    for name, place, config in zip(names, places, configs, strict=True):
        values = {field: config.get(field) for field in differing}
        label = settings([values]).settings[0].name
        # With many fields, the folder's name says more.
        setting = label if 0 < len(label) <= 60 else names[configs.index(config)]
        result = _read_result(place, setting, {**values, "seed": config["seed"]}, config["seed"])
        runs.append(result._replace(name=name))
    if not differing:
        runs = [run._replace(setting=names[0]) for run in runs]
    title = names[0] if len(places) == 1 else folders[0].resolve().name
    if len(folders) > 1:
        title = f"{len(places)} runs"
    return Study(title, tuple(differing), runs[0].setting, _with_remarks(runs))


def _run_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give the --workdir of a run, or a sweep's --out"
        )
    if (folder / "config.json").is_file():
        return [folder]
    found = sorted(file.parent for file in folder.glob("*/config.json"))
    if not found:
        raise UserError(
            f"{folder}: holds no runs (no config.json in it or in a folder of it); give the "
            "--workdir of a run, or a sweep's --out"
        )
    return found


def _unique_names(places: Sequence[pathlib.Path]) -> list[str]:
    """Returns the folders' names, with parent folders where names are equal."""
    parts = [place.resolve().parts for place in places]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(part)} ({i})" for i, part in enumerate(parts, 1)]


def _read_result(
    folder: pathlib.Path,
    setting: str,
    overrides: dict[str, Any],
    seed: Any,
    other: str = "",
) -> Result:
    """Returns what a run left; `other` names an evaluation that is not its own.

    That has no training: its costs and losses are those of the run, where they stand once.
    """
    state = read_run_state(folder)
    history, evaluation, remark = None, None, None
    if (folder / "config.json").is_file():
        try:
            history = read_run(folder)
            place = evaluation_folder(folder, history.config["data.eval_split"], other)
            evaluation = read_evaluation(place)
        except UserError as error:
            remark = str(error)
    rows = read_metrics(folder / "metrics.jsonl")
    result = Result(
        folder.name, folder, setting, overrides, seed, state, history, rows, evaluation, remark
    )
    result = result._replace(remark=remark or _remark(result))
    if other:
        return result._replace(name=f"{folder.name}@{other}", history=None, rows=[])
    return result


def _remark(run: Result) -> str | None:
    """Returns why a run does not count, regardless of the others; None if it counts."""
    state = run.state
    if run.history is None:
        progress = "not begun"
    elif state.step:
        progress = f"{state.state} at step {state.step} of {state.steps}"
    else:
        progress = f"{state.state} before a step was logged"
    config = run.history.config if run.history else {}
    steps = last_step(run.folder, config.get("steps", 0), config.get("evaluation.patience"))
    if run.evaluation is not None and run.evaluation.step == steps:
        return None  # also where another of its evaluations failed
    if state.state == "failed" or (run.evaluation is None and state.state != "done"):
        return ": ".join(filter(None, [progress, state.reason]))
    if run.evaluation is None:
        return f"not evaluated; {shell_line(['rpn-jax', 'evaluate', f'--workdir={run.folder}'])}"
    return f"evaluated at step {run.evaluation.step} of {steps}"


def _with_remarks(runs: list[Result]) -> tuple[Result, ...]:
    """Adds a remark to runs that were measured on other images than the first counted run.

    A single run always counts.
    """
    if len(runs) == 1 and runs[0].evaluation:
        return (runs[0]._replace(remark=None),)
    first = next((run for run in runs if run.remark is None), None)
    return tuple(
        run._replace(remark=f"measured on other images than {first.name}")
        if run.remark is None and not _same_images(run.evaluation, first.evaluation)
        else run
        for run in runs
    )


def _same_images(ours: Evaluation, theirs: Evaluation) -> bool:
    return all(
        np.array_equal(getattr(ours.objects, field), getattr(theirs.objects, field))
        for field in ("image_id", "num_objects", "box")
    )
