"""What `evaluate` has left of a run, and the figures that a report tells of it."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import read_figures
from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.evaluation.objects import ObjectRanks, found, read_objects


class Evaluation(NamedTuple):
    """What `evaluate` left of a run.

    Fields:
      figures: as `evaluation.figures.read_figures` reads them.
      objects: which proposal found which object.
      class_names: of the dataset.
    """

    figures: dict[str, Any]
    objects: ObjectRanks
    class_names: tuple[str, ...]

    @property
    def step(self) -> int | None:
        """The step of the parameters that were evaluated."""
        return self.figures["step"]

    @property
    def headline(self) -> str:
        """The name of the figure that stands for the run."""
        return self.figures["headline"]

    @property
    def most(self) -> int:
        """The largest number of proposals that recall is known of."""
        return max(int(n) for n in self.figures["recall"]["all"])


def read_evaluation(folder: pathlib.Path) -> Evaluation | None:
    """Returns what `evaluate` left in a folder, None if that is not there."""
    try:
        figures = read_figures(folder)
        if figures:
            _check(figures)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: its figures are damaged ({error}); evaluate again") from error
    if not figures:
        return None
    return Evaluation(figures, *read_objects(folder / "objects.npz"))


def _check(figures: dict[str, Any]) -> None:
    """Raises a `ValueError` unless a report can be made of the figures."""
    without, recall = figures.get("without", []), figures.get("recall")
    is_whole = (
        all(isinstance(figures.get(name), str) for name in ("headline", "dataset", "split"))
        and isinstance(without, list)
        and all(isinstance(part, str) for part in without)
        and isinstance(figures.get("seconds", 0), int | float)
        and isinstance(recall, dict)
        and isinstance(recall.get("all"), dict)
        and recall["all"]
        and all(number.isdecimal() for number in recall["all"])
    )
    if not is_whole:
        raise ValueError("of another version, or changed")


class Measure(NamedTuple):
    """AR of the best `top_n` proposals, or their recall at one of `IOU_THRESHOLDS`."""

    name: str
    top_n: int
    threshold: int | None = None  # its place in them

    def of_objects(self, objects: ObjectRanks) -> Float[np.ndarray, " O"]:
        """Returns what each object contributes to the mean."""
        is_found = found(objects, self.top_n)
        if self.threshold is None:
            return is_found.mean(axis=1)
        return is_found[:, self.threshold].astype(np.float64)


def measures(most: int) -> list[Measure]:
    """Returns what a report tells of runs whose recall is known of up to `most` proposals."""
    average = [n for n in (100, 300, 1000) if n <= most] or [most]
    recall = [
        Measure(f"recall@{t:.1f}", min(300, most), int(np.argmin(np.abs(IOU_THRESHOLDS - t))))
        for t in (0.5, 0.7)
    ]
    return [*(Measure(f"AR@{n}", n) for n in average), *recall]


def image_hits(objects: ObjectRanks, measured: Sequence[Measure]) -> Float[np.ndarray, "I M"]:
    """Returns the sum over the objects of each image; over all objects they give the recall."""
    sums = [
        np.bincount(
            objects.image_index,
            weights=measure.of_objects(objects),
            minlength=len(objects.image_id),
        )
        for measure in measured
    ]
    return np.stack(sums, axis=1).astype(np.float64)  # of no object they are integers
