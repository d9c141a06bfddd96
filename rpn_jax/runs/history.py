"""The history of a run, read from its work folder: starts, losses, validations."""

import json
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.files import regular
from rpn_jax.runs.config import default_config, flatten
from rpn_jax.runs.config_files import upgrade
from rpn_jax.runs.metrics import read_metrics

# Keys of a row of `runs.jsonl`, see `fingerprint`; only the first start has the weights.
FACTS = ("code", "packages", "data", "weights", "machine", "environment")


class Run(NamedTuple):
    """The history of a run.

    Fields:
      folder: work folder of the run.
      config: value of every field.
      starts: rows of `runs.jsonl` whose steps are part of the run, in order.
      losses: training loss of each row of the metrics. The key is (step before the first, last
        step) of the steps that the loss is the mean over.
      validations: figures of each validation, by step.
    """

    folder: pathlib.Path
    config: dict[str, object]
    starts: list[dict[str, Any]]
    losses: dict[tuple[int, int], float]
    validations: dict[int, dict[str, float]]

    @property
    def step(self) -> int:
        """The last logged step."""
        return max((last for _, last in self.losses), default=0)


def read_run(folder: pathlib.Path) -> Run:
    """Returns the history of a work folder's run, which may still be running.

    Raises:
        UserError: the folder is no run's, or its config cannot be read.
    """
    file = folder / "config.json"
    try:
        fields = ConfigDict(upgrade(json.loads(regular(file).read_text())))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: is no run's (it has no config.json); give the --workdir of a training run"
        ) from error
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); give another run") from error
    rows = read_metrics(folder / "metrics.jsonl")
    by_step = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    steps = sorted(by_step)
    begin = flatten(fields).get("fork.step") or 0
    losses = {
        (before, step): by_step[step] for before, step in zip([begin, *steps], steps, strict=False)
    }
    validations = {
        row["step"]: {
            name.removeprefix("validation/"): value for name, value in row.items() if "/" in name
        }
        for row in rows
        if "validation/loss" in row
    }
    starts = _kept_starts(read_metrics(folder / "runs.jsonl"), steps[-1] if steps else 0)
    # Fields added after the run take today's default.
    config = {**flatten(default_config()), **flatten(fields)}
    return Run(folder, config, starts, losses, validations)


def _kept_starts(rows: list[dict[str, Any]], last_step: int) -> list[dict[str, Any]]:
    """Leaves out starts without a remaining step: killed too early, or with nothing to do."""
    kept, end = [], last_step
    for row in reversed(rows):
        if row["step"] < end:
            kept.append(row)
        end = min(end, row["step"])
    return kept[::-1] or rows[-1:]
