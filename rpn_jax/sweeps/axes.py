"""The axes of a sweep: grids, lists of settings, seeds, and random values."""

import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rpn_jax.errors import UserError


class Setting(NamedTuple):
    """Values of some config fields, and their name in a run's folder."""

    name: str
    fields: dict[str, Any]


class Axis(NamedTuple):
    """One dimension of a sweep, a list of settings; `is_seed`: they differ by chance alone."""

    settings: tuple[Setting, ...]
    is_seed: bool = False


def grid(fields: Mapping[str, Iterable[Any] | Mapping[str, Any]]) -> Axis:
    """Returns every combination of the fields' values.

    A field has a list of values, or a mapping from labels to values:
    `grid({"rpn.anchors.sizes": {"one": (256.0,), "three": (128.0, 256.0, 512.0)}})`.
    """
    choices = [
        [Setting(f"{field}={label}", {field: value}) for label, value in _labelled(values)]
        for field, values in fields.items()
    ]
    return Axis(tuple(map(join, itertools.product(*choices))) if choices else ())


def settings(choices: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> Axis:
    """Returns an axis of settings that each change several fields together.

    The keys of a mapping are the names: `settings({"low": {"steps": 100, "batch_size": 4}, …})`.
    """
    if isinstance(choices, Mapping):
        return Axis(tuple(Setting(_safe(name), plain(choices[name])) for name in choices))
    return Axis(tuple(_named(plain(fields)) for fields in choices))


def seeds(which: int | Iterable[int]) -> Axis:
    """Returns the seeds 0 to `which` - 1, or those listed in `which`."""
    numbers = range(which) if isinstance(which, int) else which
    axis = grid({"seed": tuple(numbers)})
    return axis._replace(is_seed=True)


def random_search(
    number: int, ranges: Mapping[str, Callable[[float], Any]], *, seed: int = 0
) -> Axis:
    """Returns random settings: each field is drawn from its range (see below), independently.

    `seed` determines them; a larger `number` keeps the first ones.
    """
    draw = random.Random(seed)
    drawn = [{field: at(draw.random()) for field, at in ranges.items()} for _ in range(number)]
    return settings(drawn)


def uniform(low: float | int, high: float | int) -> Callable[[float], float]:
    """A range of `random_search`; values have 4 digits, so that a folder's name can hold them."""
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


def join(parts: Iterable[Setting]) -> Setting:
    """Returns one setting that changes the fields of all `parts`."""
    parts = list(parts)
    fields = {field: value for part in parts for field, value in part.fields.items()}
    return Setting(",".join(part.name for part in parts if part.name), fields)


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields with Python's types in place of NumPy's, and tuples in place of lists."""
    return {field: _plain_value(value) for field, value in fields.items()}


def _plain_value(value: Any) -> Any:
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
    """Returns the text without characters that file systems or shells may misread."""
    return re.sub(r"[^\w.+=-]+", "-", text)


def fields_of(axes: Iterable[Axis]) -> list[str]:
    """Returns the fields that any setting of the axes changes, in order."""
    return list(
        dict.fromkeys(
            field for axis in axes for setting in axis.settings for field in setting.fields
        )
    )
