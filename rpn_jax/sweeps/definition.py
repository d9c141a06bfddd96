"""The definition of a sweep: a base config and axes of settings; the runs are their product.

A sweep file is a few lines of Python:

    from rpn_jax.sweeps.definition import Sweep, grid, seeds

    def get_sweep():
        return Sweep(
            config="shapes",
            fixed={"steps": 100},
            axes=[grid({"rpn.loss.balance": (1.0, 3.0, 10.0)}), seeds(3)],
        )

Every run has a folder named by its differing fields, such as `rpn.loss.balance=3,seed=1`.
"""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rpn_jax.errors import UserError, list_some
from rpn_jax.runs.config import flatten
from rpn_jax.runs.config_files import load_config, names_in_file
from rpn_jax.sweeps.axes import (
    Axis,
    choice,
    fields_of,
    grid,
    join,
    log_uniform,
    plain,
    random_search,
    seeds,
    settings,
    uniform,
)
from rpn_jax.sweeps.evaluations import (
    WITHOUT,
    check_evaluations,
    evaluation_flags,
    measured_settings,
    override_flags,
)
from rpn_jax.sweeps.published import Published

__all__ = [
    "Axis", "Plan", "Published", "Run", "Sweep", "choice", "expand", "grid", "load_sweep",
    "log_uniform", "random_search", "seeds", "settings", "uniform",
]  # fmt: skip

_LONGEST_NAME = 150  # of a run; file systems allow 255 bytes, and log files add a suffix
_TAKEN = ("lock", "logs", "report", "state", "sweep.json")  # other names in the sweep's folder


class Run(NamedTuple):
    """One run of a sweep.

    Fields:
      folder: name of its folder, unique in the sweep.
      setting: that name without the seed; equal for runs that differ by the seed alone.
      overrides: value of each field that an axis changes.
    """

    folder: str
    setting: str
    overrides: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A base config and the axes over it.

    Attributes:
      config: file or shipped name, as for `train --config`.
      axes: results of `grid`, `settings`, `seeds`, `random_search`; runs are their product, the
        last axis changing fastest.
      fixed: values of fields that all runs change.
      base: setting that the others are compared with, such as `rpn.loss.balance=10`; the first by
        default.
      published: figures of somebody else, which a report sets beside the sweep's own.
      evaluations: result of `settings`: the settings of the test under which each run is measured,
        as `evaluations` describes; that of the config by default.
    """

    config: str
    axes: Sequence[Axis]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str | None = None
    published: Published | None = None
    evaluations: Axis | None = None


def expand(sweep: Sweep) -> list[Run]:
    """Returns the runs of a sweep, in order.

    Raises:
        UserError: an axis has no values, two axes change one field, two runs would share a folder,
            a folder's name is too long, `base` or a name in `published` is none of the settings, or
            an evaluation changes more than the test.
    """
    _check_axes(sweep)
    for number, axis in enumerate(sweep.axes, 1):
        if not axis.settings:
            raise UserError(f"axes: number {number} is empty; give it a value or leave it out")
    changed = collections.Counter(field for axis in sweep.axes for field in fields_of([axis]))
    changed.update(sweep.fixed.keys())
    if twice := [field for field, count in changed.items() if count > 1]:
        raise UserError(f"{twice[0]}: is changed twice, by two axes or an axis and `fixed`")
    runs = []
    for combination in itertools.product(*(axis.settings for axis in sweep.axes)):
        parts = list(zip(combination, sweep.axes, strict=True))
        whole = join(combination)
        setting = join(part for part, axis in parts if not axis.is_seed).name
        runs.append(Run(whole.name, setting or pathlib.Path(sweep.config).stem, whole.fields))
    _check_folders(runs)
    names = dict.fromkeys(run.setting for run in runs)
    if sweep.base is not None and sweep.base not in names:
        known = list_some(names, 4)
        raise UserError(f"base={sweep.base!r}: is none of the settings, which are: {known}")
    check_evaluations(sweep.evaluations, fields_of(sweep.axes))
    if sweep.published:
        evaluations = [name for name, _ in sweep.evaluations.settings] if sweep.evaluations else []
        sweep.published.check(measured_settings(names, evaluations).values())
    return runs


def _check_axes(sweep: Sweep) -> None:
    if isinstance(sweep.axes, Axis) or not isinstance(sweep.axes, Sequence):
        raise UserError("axes: give a list, [grid(…), seeds(…)]")
    if not sweep.axes:
        raise UserError("axes: there is none; give a grid, settings, seeds or a random_search")
    for number, axis in enumerate(sweep.axes, 1):
        if not isinstance(axis, Axis):
            raise UserError(
                f"axes: number {number} is {axis!r:.60}; give a grid, settings, seeds or a "
                "random_search"
            )
    if sweep.evaluations is not None and not isinstance(sweep.evaluations, Axis):
        raise UserError(f"evaluations: is {sweep.evaluations!r:.60}; give settings({{NAME: …}})")


def _check_folders(runs: Sequence[Run]) -> None:
    taken = {}
    for run in runs:
        is_fit = run.folder.strip(".") and run.folder.casefold() not in _TAKEN
        if not is_fit or len(os.fsencode(run.folder)) > _LONGEST_NAME:
            raise UserError(
                f"{run.folder!r}: cannot be the name of a run's folder (empty, taken or too long); "
                "give the values other labels, {label: value}"
            )
        other = taken.setdefault(run.folder.casefold(), run)
        if other is not run:
            raise UserError(
                f"two runs would share the folder {run.folder}: {other.overrides} and "
                f"{run.overrides}; leave one out, or give the values labels, {{label: value}}"
            )


class Plan(NamedTuple):
    """A sweep that is ready to start.

    Fields:
      sweep: sweep from the file.
      given: `--config.field=value` of the command line, for all runs.
      runs: runs in order.
      configs: config of each run.
    """

    sweep: Sweep
    given: tuple[str, ...]
    runs: tuple[Run, ...]
    configs: tuple[ConfigDict, ...]

    @property
    def fields(self) -> list[str]:
        """The fields that differ between the runs."""
        return fields_of(self.sweep.axes)

    def flags(self, run: Run) -> list[str]:
        """Returns the flags of `train` for a run."""
        return [f"--config={self.sweep.config}", *_overrides(self.sweep, run, self.given)]

    @property
    def evaluations(self) -> dict[str, list[str]]:
        """The flags of `evaluate` for each evaluation that is not the runs' own, by its name."""
        axis = self.sweep.evaluations
        others = [setting for setting in axis.settings if setting.fields] if axis else []
        return {name: evaluation_flags(fields) for name, fields in others}

    def record_json(self) -> str:
        """Returns the content of `sweep.json`; `runs.read_sweep` lists its keys."""
        base = self.sweep.base or self.runs[0].setting
        seed_fields = fields_of(axis for axis in self.sweep.axes if axis.is_seed)
        record = {
            "config": self.sweep.config,
            "fixed": plain(self.sweep.fixed),
            "given": list(self.given),
            "fields": self.fields,
            "seed_field": seed_fields[0] if seed_fields else None,
            "base": next(run.folder for run in self.runs if run.setting == base),
            "published": self.sweep.published and self.sweep.published.to_json(),
            "evaluations": dict(self.sweep.evaluations.settings) if self.sweep.evaluations else {},
            "runs": [run._asdict() for run in self.runs],
        }
        return json.dumps(record, indent=2)


def _overrides(sweep: Sweep, run: Run, given: Sequence[str]) -> list[str]:
    return [*override_flags(plain(sweep.fixed)), *given, *override_flags(run.overrides)]


def load_sweep(path: str, given: Sequence[str] = ()) -> Plan:
    """Returns the sweep of a file with `get_sweep()`, and its runs' configs.

    `given` are `--config.field=value` for all runs.

    Raises:
        UserError: the file does not exist or fails, the sweep is wrong (see `expand`), a field does
            not exist, or a value has another type than its field.
    """
    with names_in_file("--sweep", path, "sweeps") as names:
        sweep = names["get_sweep"]()
        if not isinstance(sweep, Sweep):
            found = None if sweep is None else type(sweep).__name__
            raise UserError(f"get_sweep() returns {found}; it is to return a Sweep")
        runs = expand(sweep)
        configs = tuple(_config(sweep, run, given) for run in runs)
        for _, fields in sweep.evaluations.settings if sweep.evaluations else ():
            _check_evaluation(sweep, runs[0], given, fields)
    return Plan(sweep, tuple(given), tuple(runs), configs)


def _check_evaluation(
    sweep: Sweep, run: Run, given: Sequence[str], fields: Mapping[str, Any]
) -> None:
    """Raises a `UserError` unless a run's config takes the fields of an evaluation."""
    of_config = {field: value for field, value in fields.items() if field != WITHOUT}
    others = [flag for flag in given if _field_of(flag) not in of_config]
    config = _config(sweep, run._replace(overrides=run.overrides | of_config), others)
    if WITHOUT in fields and "rpn" not in config:
        raise UserError("evaluations: there is no RPN to leave parts out of; leave `without` out")


def _config(sweep: Sweep, run: Run, given: Sequence[str]) -> ConfigDict:
    named = set(map(_field_of, given))
    if swept := named & run.overrides.keys():
        raise UserError(f"--config.{min(swept)}: the sweep itself changes it; leave the flag out")
    config = load_config(sweep.config, _overrides(sweep, run, given))
    known = flatten(config)
    for field, value in {**plain(sweep.fixed), **run.overrides}.items():
        # An override is text: a value that its text does not give back has a wrong type.
        if field not in named and known[field] != _lists(value):
            kind = type(known[field]).__name__
            raise UserError(f"{field}={value!r}: give a value of type {kind}")
    return config


def _field_of(flag: str) -> str:
    return flag.removeprefix("--config.").partition("=")[0]


def _lists(value: Any) -> Any:
    return list(map(_lists, value)) if isinstance(value, tuple) else value
