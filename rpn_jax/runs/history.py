"""What a work folder tells of its run: its starts, its losses, its validations."""

import json
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config, flatten
from rpn_jax.runs.config_files import upgrade
from rpn_jax.runs.metrics import read_metrics

# Of a row of `runs.jsonl`, see `fingerprint`; the pretrained weights are told at the first start.
FACTS = ("code", "packages", "data", "weights", "machine", "environment")


class Run(NamedTuple):
    """What a work folder tells of its run.

    Fields:
      folder: of the run.
      config: every field and its value.
      starts: the rows of `runs.jsonl` whose steps are part of the run, in order.
      losses: the training loss of each row of the metrics, by the steps it is the mean over: the
        one before the first, and the last.
      validations: the figures of each validation, by step.
    """

    folder: pathlib.Path
    config: dict[str, object]
    starts: list[dict[str, Any]]
    losses: dict[tuple[int, int], float]
    validations: dict[int, dict[str, float]]

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((last for _, last in self.losses), default=0)


def read_run(folder: pathlib.Path) -> Run:
    """Returns what a work folder tells of its run, which may be at work.

    Raises:
        UserError: it is no run's, or its config cannot be read.
    """
    file = folder / "config.json"
    try:
        fields = ConfigDict(upgrade(json.loads(file.read_text())))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: is no run's (it has no config.json); give the --workdir of a training run"
        ) from error
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); give another run") from error
    rows = read_metrics(folder / "metrics.jsonl")
    by_step = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    steps = sorted(by_step)
    losses = {
        (before, step): by_step[step] for before, step in zip([0, *steps], steps, strict=False)
    }
    validations = {
        row["step"]: {
            name.removeprefix("validation/"): value for name, value in row.items() if "/" in name
        }
        for row in rows
        if "validation/loss" in row
    }
    starts = _kept_starts(read_metrics(folder / "runs.jsonl"), steps[-1] if steps else 0)
    # A field that the run's version of this project had not got yet did what is its default now.
    config = {**flatten(default_config()), **flatten(fields)}
    return Run(folder, config, starts, losses, validations)


def _kept_starts(rows: list[dict[str, Any]], last_step: int) -> list[dict[str, Any]]:
    """Leaves out the starts of which no step is left: killed too early, or without any to do."""
    kept, end = [], last_step
    for row in reversed(rows):
        if row["step"] < end:
            kept.append(row)
        end = min(end, row["step"])
    return kept[::-1] or rows[-1:]
