"""The best validation of a run, and when to stop because none is better; from `metrics.jsonl`."""

import math
import pathlib
from collections.abc import Mapping

from rpn_jax.errors import UserError, list_some
from rpn_jax.evaluation.figures import headline_of
from rpn_jax.runs.metrics import read_metrics

_PREFIX = "validation/"


class Validations:
    """The headline figure of each validation of a run, by step.

    With `patience`, a run is over when so many validations in a row were not better than the best
    before them.
    """

    def __init__(self, values: Mapping[int, float], patience: int | None = None):
        self._values = dict(values)
        self._patience = patience

    def add(self, step: int, value: float) -> None:
        """Adds the validation after `step`, the newest."""
        self._values[step] = value

    @property
    def best(self) -> int | None:
        """The step of the highest figure, the first of equal ones; None without a validation."""
        numbers = {s: v if math.isfinite(v) else -math.inf for s, v in self._values.items()}
        return max(sorted(numbers), key=numbers.__getitem__, default=None)

    def are_over(self) -> bool:
        """Returns whether the run is to stop after the newest validation."""
        best = self.best
        if not self._patience or best is None:
            return False
        return sum(step > best for step in self._values) >= self._patience


def read_validations(workdir: pathlib.Path) -> list[tuple[int, float]]:
    """Returns the step and the headline figure of each validation in a run's folder, in order."""
    found = []
    for row in read_metrics(workdir / "metrics.jsonl"):
        scalars = {
            name.removeprefix(_PREFIX): value
            for name, value in row.items()
            if name.startswith(_PREFIX)
        }
        if headline := headline_of(scalars):
            found.append((row["step"], scalars[headline]))
    return found


def last_step(workdir: pathlib.Path, steps: int, patience: int | None) -> int:
    """Returns the step after which a run of so many `steps` ends, or has ended early."""
    if not patience:
        return steps
    found = dict(read_validations(workdir))
    return max(found) if Validations(found, patience).are_over() else steps


def best_kept_step(workdir: pathlib.Path, kept: list[int]) -> int:
    """Returns the step of a run's best validation, whose checkpoint must be among those `kept`.

    Raises:
        UserError: nothing was validated, or the checkpoint was not kept.
    """
    best = Validations(dict(read_validations(workdir))).best
    if best is None:
        raise UserError(f"{workdir}: was not validated, so that no step is the best; give a number")
    if best not in kept:
        raise UserError(
            f"{workdir}: the checkpoint of step {best}, the best, was not kept; there are those of "
            f"{list_some(map(str, kept))}; train with config.checkpoint.keep_best=True"
        )
    return best
