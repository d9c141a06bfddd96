"""What a sweep is: a base config, and axes of settings that its runs are the product of.

A sweep file says it in a few lines of Python:

    from rpn_jax.sweeps.definition import Sweep, grid, seeds

    def get_sweep():
        return Sweep(
            config="shapes",
            fixed={"steps": 100},
            axes=[grid({"rpn.loss.balance": (1.0, 3.0, 10.0)}), seeds(3)],
        )

Every run has a folder named by what differs, `rpn.loss.balance=3,seed=1`.
"""

import collections
import dataclasses
import itertools
import json
import math
import os
import pathlib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.errors import UserError, list_some
from rpn_jax.runs.config import flatten
from rpn_jax.runs.config_files import load_config, names_in_file

_LONGEST_NAME = 150  # of a run; file systems allow 255 bytes, and logs add an ending
_TAKEN = ("lock", "logs", "report", "state", "sweep.json")  # what else is in the sweep's folder


class Setting(NamedTuple):
    """The value of some config fields, and the name that tells them in a run's folder."""

    name: str
    fields: dict[str, Any]


class Axis(NamedTuple):
    """The settings that a sweep goes through; `is_seed`: runs differ by chance alone."""

    settings: tuple[Setting, ...]
    is_seed: bool = False


class Run(NamedTuple):
    """One run of a sweep.

    Fields:
      folder: its name, unique in the sweep.
      setting: the same without the seed; equal in the runs that differ by the seed alone.
      overrides: the value of each field that some axis changes in it.
    """

    folder: str
    setting: str
    overrides: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A base config and the axes over it.

    Attributes:
      config: the file or the shipped name, as `train --config` takes it.
      axes: of `grid`, `settings`, `seeds`, `random_search`; runs are their product, the last axis
        changing fastest.
      fixed: fields that all runs have otherwise than the config.
      base: the setting that the others are compared with, `rpn.loss.balance=10`; the first by
        default.
    """

    config: str
    axes: Sequence[Axis]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str | None = None


def grid(fields: Mapping[str, Iterable[Any] | Mapping[str, Any]]) -> Axis:
    """Returns every combination of the fields' values.

    Values are listed, or a mapping from the label that names them to the value:
    `grid({"rpn.anchors.sizes": {"one": (256.0,), "three": (128.0, 256.0, 512.0)}})`.
    """
    choices = [
        [Setting(f"{field}={label}", {field: value}) for label, value in _labelled(values)]
        for field, values in fields.items()
    ]
    return Axis(tuple(map(_join, itertools.product(*choices))) if choices else ())


def settings(choices: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> Axis:
    """Returns a list of settings, each a change of several fields together.

    With a mapping its keys name them: `settings({"low": {"steps": 100, "batch_size": 4}, …})`.
    """
    if isinstance(choices, Mapping):
        return Axis(tuple(Setting(_safe(name), _plain(choices[name])) for name in choices))
    return Axis(tuple(_named(_plain(fields)) for fields in choices))


def seeds(which: int | Iterable[int]) -> Axis:
    """Returns that many seeds from 0 on, or those given."""
    numbers = range(which) if isinstance(which, int) else which
    axis = grid({"seed": tuple(numbers)})
    return axis._replace(is_seed=True)


def random_search(
    number: int, ranges: Mapping[str, Callable[[float], Any]], *, seed: int = 0
) -> Axis:
    """Returns settings drawn at random: each field from its range (see below), independently.

    They follow from `seed`, and with a larger `number` the first ones stay as they are.
    """
    draw = random.Random(seed)
    drawn = [{field: at(draw.random()) for field, at in ranges.items()} for _ in range(number)]
    return settings(drawn)


def uniform(low: float | int, high: float | int) -> Callable[[float], float]:
    """A range of `random_search`; values have 4 digits, so that a folder's name tells them."""
    return lambda u: _rounded(low + u * (high - low))


def log_uniform(low: float | int, high: float | int) -> Callable[[float], float]:
    """A range of `random_search`, uniform in the logarithm; both ends are above 0."""
    if not 0 < low <= high:
        raise UserError(f"log_uniform({low}, {high}): give two values above 0, the lower first")
    return lambda u: _rounded(low * math.exp(u * math.log(high / low)))


def choice(values: Iterable[Any]) -> Callable[[float], Any]:
    """A range of `random_search`: one of the values."""
    values = tuple(values)
    if not values:
        raise UserError("choice: has no values; give some")
    return lambda u: values[int(u * len(values))]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _labelled(values: Iterable[Any] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(values, Mapping):
        return [(_safe(label), _plain_value(value)) for label, value in values.items()]
    return [(_text(_plain_value(value)), _plain_value(value)) for value in values]


def _named(fields: dict[str, Any]) -> Setting:
    return Setting(",".join(f"{field}={_text(value)}" for field, value in fields.items()), fields)


def _join(parts: Iterable[Setting]) -> Setting:
    parts = list(parts)
    fields = {field: value for part in parts for field, value in part.fields.items()}
    return Setting(",".join(part.name for part in parts if part.name), fields)


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field: _plain_value(value) for field, value in fields.items()}


def _plain_value(value: Any) -> Any:
    """Returns Python's own types for NumPy's, and tuples for lists."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(_plain_value, value)) if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
    """Returns a value as a part of a folder's name: 10 for 10.0, 128_256 for (128.0, 256.0)."""
    if isinstance(value, tuple):
        deep = any(isinstance(item, tuple) for item in value)
        return ("__" if deep else "_").join(map(_text, value))
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return _safe(str(value))


def _safe(text: str) -> str:
    """Returns the text with what file systems and shells may take amiss replaced."""
    return re.sub(r"[^\w.+=-]+", "-", text)


def expand(sweep: Sweep) -> list[Run]:
    """Returns the runs of a sweep, in order.

    Raises:
        UserError: an axis without values, a field that two axes change, two runs that would share
            a folder, a folder's name that is too long, or a `base` that is none of the settings.
    """
    if not sweep.axes:
        raise UserError("axes: there is none; give a grid, settings, seeds or a random_search")
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
        whole = _join(combination)
        setting = _join(part for part, axis in parts if not axis.is_seed).name
        runs.append(Run(whole.name, setting or pathlib.Path(sweep.config).stem, whole.fields))
    _check_folders(runs)
    if sweep.base is not None and sweep.base not in {run.setting for run in runs}:
        known = list_some(dict.fromkeys(run.setting for run in runs), 4)
        raise UserError(f"base={sweep.base!r}: is none of the settings, which are: {known}")
    return runs


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


def fields_of(axes: Iterable[Axis]) -> list[str]:
    """Returns the fields that any setting of the axes changes, in order."""
    return list(
        dict.fromkeys(
            field for axis in axes for setting in axis.settings for field in setting.fields
        )
    )


class Plan(NamedTuple):
    """A sweep with all that its runs need to be started.

    Fields:
      sweep: as its file has it.
      given: `--config.field=value` of the command line, for all runs.
      runs: in order.
      configs: of each run.
    """

    sweep: Sweep
    given: tuple[str, ...]
    runs: tuple[Run, ...]
    configs: tuple[ConfigDict, ...]

    @property
    def fields(self) -> list[str]:
        """What differs between the runs."""
        return fields_of(self.sweep.axes)

    def flags(self, run: Run) -> list[str]:
        """Returns what `train` takes to make a run."""
        return [f"--config={self.sweep.config}", *_overrides(self.sweep, run, self.given)]

    def record_json(self) -> str:
        """Returns the content of `sweep.json`; `runs.read_sweep` says what is in it."""
        base = self.sweep.base or self.runs[0].setting
        seed_fields = fields_of(axis for axis in self.sweep.axes if axis.is_seed)
        record = {
            "config": self.sweep.config,
            "fixed": _plain(self.sweep.fixed),
            "given": list(self.given),
            "fields": self.fields,
            "seed_field": seed_fields[0] if seed_fields else None,
            "base": next(run.folder for run in self.runs if run.setting == base),
            "runs": [run._asdict() for run in self.runs],
        }
        return json.dumps(record, indent=2)


def _overrides(sweep: Sweep, run: Run, given: Sequence[str]) -> list[str]:
    def flags(fields):
        return [
            f"--config.{field}={value if isinstance(value, str) else repr(value)}"
            for field, value in fields.items()
        ]

    return [*flags(_plain(sweep.fixed)), *given, *flags(run.overrides)]


def load_sweep(path: str, given: Sequence[str] = ()) -> Plan:
    """Returns the sweep of a file with `get_sweep()`, and its runs' configs.

    `given` are `--config.field=value` for all runs.

    Raises:
        UserError: no such file, one that fails, or anything wrong with the sweep: see `expand`;
            also a field that there is not, or a value of another type than the field has.
    """
    with names_in_file("--sweep", path, "sweeps") as names:
        sweep = names["get_sweep"]()
        runs = expand(sweep)
        configs = tuple(_config(sweep, run, given) for run in runs)
    return Plan(sweep, tuple(given), tuple(runs), configs)


def _config(sweep: Sweep, run: Run, given: Sequence[str]) -> ConfigDict:
    named = {flag.removeprefix("--config.").partition("=")[0] for flag in given}
    if swept := named & run.overrides.keys():
        raise UserError(f"--config.{min(swept)}: the sweep itself changes it; leave the flag out")
    config = load_config(sweep.config, _overrides(sweep, run, given))
    known = flatten(config)
    for field, value in {**_plain(sweep.fixed), **run.overrides}.items():
        # An override is text; what would read as another value is none of the field's type.
        if field not in named and known[field] != _lists(value):
            kind = type(known[field]).__name__
            raise UserError(f"{field}={value!r}: give a value of type {kind}")
    return config


def _lists(value: Any) -> Any:
    return list(map(_lists, value)) if isinstance(value, tuple) else value
