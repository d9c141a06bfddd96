"""The figures of a study's runs, and the significance of their differences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rpn_jax.evaluation.precision import IOU_75
from rpn_jax.reports.document import Cell
from rpn_jax.reports.evaluations import PRECISIONS, Measure, Precision, image_hits, measures
from rpn_jax.reports.results import Result, Study
from rpn_jax.reports.statistics import (
    PRECISION_REPLICATES,
    Difference,
    holm,
    paired_difference,
    resample_images,
    resamples,
)

SIGNIFICANT = 0.05


class Comparison(NamedTuple):
    """The difference of a setting to another, on the seeds that both have.

    `p` is the difference's p-value, corrected for all comparisons and figures together; NaN where
    only one seed is shared, so that nothing is known of the noise over seeds.
    """

    seeds: int
    difference: Difference
    p: Float[np.ndarray, " M"]

    def reversed(self) -> "Comparison":
        """Returns the difference of the other setting to this one."""
        mean, low, high, p = self.difference
        return self._replace(difference=Difference(-mean, -high, -low, p))


class Figures(NamedTuple):
    """The figures of all runs that count.

    Fields:
      names: names of the M figures: those of `kinds`, then recall.
      kinds: of average precision, those that all runs have.
      measured: measures of recall.
      runs: runs that count, in order.
      values: figures of each run.
      replicates: figures of each run on resampled images, see `statistics`; NaN where unknown.
      settings: indices of each setting's runs in `runs`; settings without runs are left out.
      images: number of images with an object.
    """

    names: list[str]
    kinds: list[Precision]
    measured: list[Measure]
    runs: list[Result]
    values: Float[np.ndarray, "R M"]
    replicates: Float[np.ndarray, "B R M"]
    settings: dict[str, list[int]]
    images: int

    @property
    def most(self) -> int:
        """The largest number of proposals with a known recall in all runs."""
        return min(run.evaluation.most for run in self.runs)

    def of_run(self, name: str) -> Float[np.ndarray, " M"] | None:
        """Returns the figures of a run, None if it does not count."""
        place = {run.name: r for r, run in enumerate(self.runs)}
        return self.values[place[name]] if name in place else None

    def compare(self, name: str, *, against_it: bool) -> dict[str, Comparison]:
        """Returns the differences between the named setting and each other setting.

        With `against_it` a difference is the other setting less the named one, else the reverse.
        Settings without a common seed are left out.
        """
        others = [other for other in self.settings if other != name]
        pairs = {other: (other, name) if against_it else (name, other) for other in others}
        compared = self.compare_pairs(list(pairs.values()))
        return {other: compared[pair] for other, pair in pairs.items() if pair in compared}

    def compare_pairs(
        self, pairs: Sequence[tuple[str, str]], figure: int | None = None
    ) -> dict[tuple[str, str], Comparison]:
        """Returns the first setting of each pair less the second.

        Pairs without a common seed are left out. Of a single `figure`, p is corrected for the pairs
        alone, and NaN for the others.
        """
        differences = {}
        for pair in pairs:
            if places := self._shared(*pair):
                differences[pair] = (
                    len(places[0]),
                    paired_difference(
                        *(self.values[runs] for runs in places),
                        *(self.replicates[:, runs] for runs in places),
                        self.images,
                    ),
                )
        tested = np.array([difference.p for _, difference in differences.values()])
        tested = tested.reshape(len(differences), len(self.names))
        if figure is not None:
            tested = np.where(np.arange(len(self.names)) == figure, tested, np.nan)
        return {
            pair: Comparison(*difference, p)
            for (pair, difference), p in zip(differences.items(), holm(tested), strict=True)
        }

    def _shared(self, *names: str) -> list[list[int]]:
        """Returns the runs of the seeds that both settings have, seed by seed."""
        by_seed = [{self.runs[r].seed: r for r in self.settings[name]} for name in names]
        seeds = [seed for seed in by_seed[0] if seed in by_seed[1]]
        return [[runs[seed] for seed in seeds] for runs in by_seed] if seeds else []

    def best(self) -> list[str | None]:
        """Returns the best setting by each figure, None where chance may explain it."""
        names = list(self.settings)
        if len(names) < 2:
            return [None] * len(self.names)
        means = np.stack([self.values[runs].mean(axis=0) for runs in self.settings.values()])
        highest = means.argmax(axis=0)
        compared = {place: self.compare(names[place], against_it=False) for place in set(highest)}
        best = []
        for m, place in enumerate(highest):
            others = compared[place]
            is_clear = all(comparison.p[m] < SIGNIFICANT for comparison in others.values())
            best.append(names[place] if is_clear and len(others) == len(names) - 1 else None)
        return best


def difference_cell(mean: float, low: float, high: float, p: float) -> Cell:
    """Returns a difference, its interval and its p-value; strong where it is significant."""
    if np.isnan(mean):
        return Cell(("–",))
    lines = [points(mean)] if np.isnan(low) else [points(mean), f"{points(low)} to {points(high)}"]
    if not np.isnan(p):
        lines.append("p < 0.001" if p < 0.001 else f"p = {p:.3f}")
    return Cell(tuple(lines), is_strong=p < SIGNIFICANT)


def points(difference: float) -> str:
    """Returns a difference of ratios in percentage points."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def compute_figures(study: Study) -> Figures:
    """Returns the figures of the runs that count, and of their replicates."""
    runs = study.counted
    measured = measures(min(run.evaluation.most for run in runs))
    hits = np.stack([image_hits(run.evaluation.objects, measured) for run in runs])
    objects = runs[0].evaluation.objects.num_objects.astype(np.float64)
    settings: dict[str, list[int]] = {}
    for r, run in enumerate(runs):
        settings.setdefault(run.setting, []).append(r)
    of_recall = hits.sum(axis=1) / (objects.sum() or np.nan)
    replicates = resample_images(hits, objects)
    scalars = [run.evaluation.figures["scalars"] for run in runs]
    kinds = [kind for kind in PRECISIONS if all(kind.is_in(run.evaluation.figures) for run in runs)]
    if kinds:  # COCO's AR of detections is another
        measured = [measure._replace(name=f"proposals {measure.name}") for measure in measured]
    precise = [name for kind in kinds for name in kind.scalars]
    of_detections = np.array([[named[name] for name in precise] for named in scalars])
    resampled = []
    for kind in kinds:
        of_runs = [_resampled_precision(run, kind, objects, len(replicates)) for run in runs]
        resampled.append(np.stack(of_runs, axis=1))
    resampled.append(replicates)
    return Figures(
        [
            *(name for kind in kinds for name in kind.meanings),
            *(measure.name for measure in measured),
        ],
        kinds,
        measured,
        runs,
        np.concatenate([of_detections, of_recall], axis=1),
        np.concatenate(resampled, axis=2),
        settings,
        int(np.count_nonzero(objects)),
    )


def _resampled_precision(
    run: Result, kind: Precision, objects: Float[np.ndarray, " I"], replicates: int
) -> Float[np.ndarray, "B 3"]:
    """Returns a run's AP, AP50 and AP75 on resamples of `resample_images`.

    They are NaN on those after the first `PRECISION_REPLICATES`, and without matches.
    """
    resampled = np.full((replicates, len(kind.scalars)), np.nan)
    matches = run.evaluation.matches.get(kind.prefix)
    if matches:
        image_id = run.evaluation.objects.image_id
        drawn = resamples(len(image_id), PRECISION_REPLICATES)
        rows = [matches.precision(image_id, times[times @ objects > 0]) for times in drawn]
        by_iou = np.concatenate(rows)
        of_rows = [by_iou.mean(axis=1), by_iou[:, 0], by_iou[:, IOU_75]]
        resampled[: len(by_iou)] = np.stack(of_rows, axis=1)
    return resampled
