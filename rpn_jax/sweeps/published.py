"""Published figures of a sweep's settings, to stand beside its own."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from rpn_jax.errors import UserError, list_some
from rpn_jax.sweeps.evaluations import measured_settings, other_evaluations


@dataclasses.dataclass(frozen=True)
class Published:
    """What somebody else has published of the settings of a sweep.

    Attributes:
      source: where the figures stand, such as "Ren et al., table 8".
      figure: what they are, such as "mAP".
      values: figure of each setting, by its name, in per cent; settings may be left out.
      ours: figure of a report that it is compared with.
    """

    source: str
    figure: str
    values: Mapping[str, float | int]
    ours: str = "AP50"

    @property
    def title(self) -> str:
        """The heading of its column."""
        return f"published {self.figure}"

    def check(self, settings: Collection[str]) -> None:
        """Raises a `UserError` unless the values are numbers, each of one of the settings."""
        if not self.values:
            raise UserError("published: has no values; give some, or leave it out")
        for setting, value in self.values.items():
            if setting not in settings:
                raise UserError(
                    f"published: {setting!r} is none of the settings, which are: "
                    f"{list_some(settings, 4)}"
                )
            if not _is_percent(value):
                raise UserError(
                    f"published: {setting} is {value!r}; give a number of per cent, such as 69.9"
                )

    def to_json(self) -> dict[str, Any]:
        """Returns the entry `published` of `sweep.json`."""
        return dataclasses.asdict(self)


def read_published(entry: Any) -> Published | None:
    """Returns what `Published.to_json` gave; None for None.

    Raises:
        ValueError: it is something else.
    """
    if entry is None:
        return None
    texts = ("source", "figure", "ours")
    is_whole = (
        isinstance(entry, dict)
        and entry.keys() == {*texts, "values"}
        and all(isinstance(entry[name], str) for name in texts)
        and isinstance(entry["values"], dict)
        and all(map(_is_percent, entry["values"].values()))
    )
    if not is_whole:
        raise ValueError("published figures that are none")
    return Published(**entry)


def published_of_runs(sweep: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Returns the title of the published figures in a `sweep.json`, and that of each run's setting.

    Runs whose setting has none are left out; the title is "" where nothing is published, or where
    it cannot be read: then the report says so.
    """
    try:
        published = read_published(sweep.get("published"))
        others = other_evaluations(sweep)
    except ValueError:
        published = None
    if published is None:
        return "", {}
    evaluations = list(sweep.get("evaluations") or ())
    own = next((name for name in evaluations if name not in others), "")
    settings = [run.get("setting", "") for run in sweep["runs"]]
    measured = measured_settings(settings, evaluations)
    values = {
        run["folder"]: published.values.get(measured[setting, own])
        for run, setting in zip(sweep["runs"], settings, strict=True)
    }
    known = {folder: value for folder, value in values.items() if value is not None}
    return published.title, {folder: f"{value:g} %" for folder, value in known.items()}


def _is_percent(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
