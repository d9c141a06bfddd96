"""The results of `evaluate` for a run, and the figures that a report shows."""

import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import ARRAYS, read_figures
from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.evaluation.objects import ObjectRanks, found, read_objects
from rpn_jax.evaluation.precision import CLASS_FIGURES, CURVES, ERRORS
from rpn_jax.evaluation.weighted import RECALL_POINTS, SplitMatches, read_matches


class Precision(NamedTuple):
    """The figures of average precision in every table: of the boxes of detections, or their masks.

    Fields:
      title: of what there is of them alone.
      prefix: what the names of their scalars and arrays begin with.
      meanings: the figures, with what they mean.
      details: the name of their details, "" for those that stand beside the scalars.
    """

    title: str
    prefix: str
    meanings: dict[str, str]
    details: str = ""

    def is_in(self, figures: Mapping[str, Any]) -> bool:
        """Returns whether all of them are among the scalars."""
        return all(name in figures["scalars"] for name in self.scalars)

    @property
    def scalars(self) -> tuple[str, ...]:
        """Their names among the scalars, in order."""
        return tuple(f"{self.prefix}{name}" for name in _AVERAGES)

    def details_of(self, figures: Mapping[str, Any]) -> Any:
        """Returns what `PrecisionResult.to_json` gave."""
        return figures.get(self.details) if self.details else figures


_AVERAGES = ("AP", "AP50", "AP75")
PRECISIONS = (
    Precision(
        "Detections",
        "",
        {
            "AP": "AP: COCO's average precision of the detections, the mean over IoU 0.50 to 0.95.",
            "AP50": "AP50: the same at IoU 0.5.",
            "AP75": "AP75: at IoU 0.75.",
        },
    ),
    Precision(
        "Masks",
        "masks_",
        {
            "masks AP": "masks AP, AP50, AP75: those of masks, by the IoU of masks.",
            "masks AP50": "",
            "masks AP75": "",
        },
        "masks",
    ),
)
MEANINGS = {name: text for kind in PRECISIONS for name, text in kind.meanings.items()}


class Evaluation(NamedTuple):
    """The results of `evaluate` for a run.

    Fields:
      figures: result of `evaluation.figures.read_figures`.
      objects: proposal that found each object.
      class_names: class names of the dataset.
      matches: those of the detections, and of their masks, by `Precision.prefix`; none without
        detections, or where they were not kept.
    """

    figures: dict[str, Any]
    objects: ObjectRanks
    class_names: tuple[str, ...]
    matches: Mapping[str, SplitMatches] = types.MappingProxyType({})

    @property
    def step(self) -> int | None:
        """The step of the evaluated parameters."""
        return self.figures["step"]

    @property
    def headline(self) -> str:
        """The name of the run's headline figure."""
        return self.figures["headline"]

    @property
    def most(self) -> int:
        """The largest number of proposals with a known recall."""
        return max(int(n) for n in self.figures["recall"]["all"])


def read_evaluation(folder: pathlib.Path) -> Evaluation | None:
    """Returns the results of `evaluate` in a folder, None if there are none."""
    try:
        figures = read_figures(folder)
        if figures:
            _check(figures)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: its figures are damaged ({error}); evaluate again") from error
    if not figures:
        return None
    evaluation = Evaluation(figures, *read_objects(folder / "objects.npz"))
    file = folder / ARRAYS
    kinds = [kind for kind in PRECISIONS if kind.is_in(figures) and file.exists()]
    kept = {kind.prefix: read_matches(file, kind.prefix) for kind in kinds}
    for matches in kept.values():
        for ids in (matches.image_id, matches.object_image_id):
            if not np.isin(ids, evaluation.objects.image_id).all():
                raise UserError(f"{file}: is of other images than its objects.npz; evaluate again")
    return evaluation._replace(matches=kept)


def _check(figures: dict[str, Any]) -> None:
    """Raises a `ValueError` if the figures lack what a report needs."""
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
        and all(_is_whole_precision(kind, figures) for kind in PRECISIONS)
    )
    if not is_whole:
        raise ValueError("of another version, or changed")


def _is_whole_precision(kind: Precision, figures: dict[str, Any]) -> bool:
    """Returns whether figures of that kind, if there are any, have what a report needs."""
    if not set(kind.scalars) & set(figures["scalars"]):
        return True
    details = kind.details_of(figures)
    if not isinstance(details, dict):
        return False
    classes, errors, curves = (details.get(name) for name in ("classes", "errors", "precision"))
    return (
        isinstance(classes, list)
        and all(
            isinstance(row, dict)
            and isinstance(row.get("name"), str)
            and isinstance(row.get("objects"), int)
            and all(isinstance(row.get(name), int | float | None) for name in CLASS_FIGURES)
            for row in classes
        )
        and isinstance(errors, dict)
        and all(isinstance(errors.get(name), int | float) for name in ERRORS)
        and isinstance(curves, dict)
        and all(_is_curve(curves.get(name)) for name in CURVES)
    )


def _is_curve(curve: Any) -> bool:
    return (
        isinstance(curve, list)
        and len(curve) == len(RECALL_POINTS)
        and all(isinstance(precision, int | float) for precision in curve)
    )


class Measure(NamedTuple):
    """AR of the best `top_n` proposals, or their recall at one of `IOU_THRESHOLDS`."""

    name: str
    top_n: int
    threshold: int | None = None  # index into them

    def of_objects(self, objects: ObjectRanks) -> Float[np.ndarray, " O"]:
        """Returns each object's contribution to the mean."""
        is_found = found(objects, self.top_n)
        if self.threshold is None:
            return is_found.mean(axis=1)
        return is_found[:, self.threshold].astype(np.float64)


def measures(most: int) -> list[Measure]:
    """Returns the measures in a report on runs with a known recall up to `most` proposals."""
    average = [n for n in (100, 300, 1000) if n <= most] or [most]
    recall = [
        Measure(f"recall@{t:.1f}", min(300, most), int(np.argmin(np.abs(IOU_THRESHOLDS - t))))
        for t in (0.5, 0.7)
    ]
    return [*(Measure(f"AR@{n}", n) for n in average), *recall]


def image_hits(objects: ObjectRanks, measured: Sequence[Measure]) -> Float[np.ndarray, "I M"]:
    """Returns the sum of each measure over each image's objects; their total gives the recall."""
    sums = [
        np.bincount(
            objects.image_index,
            weights=measure.of_objects(objects),
            minlength=len(objects.image_id),
        )
        for measure in measured
    ]
    return np.stack(sums, axis=1).astype(np.float64)  # integers if there are no objects
