"""The figures of a report as CSV files, for other programs; ratios in them are 0 to 1."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.files import write_bytes
from rpn_jax.reports.comparison import Comparison, Figures
from rpn_jax.reports.curves import numbers_up_to
from rpn_jax.reports.results import Result, Study
from rpn_jax.reports.statistics import mean_and_deviation
from rpn_jax.text import csv_cell


def write_settings(
    study: Study, figures: Figures, of_base: dict[str, Comparison], path: pathlib.Path
) -> None:
    """Writes a row for each setting: its figures and its differences to the base."""
    kinds = ("", " deviation", " difference", " low", " high", " p")
    columns = [f"{name}{kind}" for name in figures.names for kind in kinds]
    rows = []
    for name, places in figures.settings.items():
        means, deviations = mean_and_deviation(figures.values[places])
        nothing = np.full((4, len(means)), np.nan)
        comparison = of_base.get(name)
        differences = [*comparison.difference[:3], comparison.p] if comparison else nothing
        figures_of_it = np.stack([means, deviations, *differences], axis=1)
        labels = _overrides(study, figures.runs[places[0]])
        row = [name, *labels, len(places), *_published(study, name)]
        rows.append([*row, *map(_digits, figures_of_it.ravel())])
    header = ["setting", *study.fields, "runs", *_published_title(study), *columns]
    _write_rows(path, header, rows)


def write_runs(study: Study, figures: Figures, path: pathlib.Path) -> None:
    """Writes a row for each run: its state, figures and cost."""
    names = figures.names
    rows = []
    for run in study.runs:
        values = figures.of_run(run.name)
        cells = [""] * len(names) if values is None else map(_digits, values)
        state = run.state
        labels = _overrides(study, run)
        row = [run.name, run.setting, *labels, run.seed, state.state, state.step, state.steps]
        row += _published(study, run.setting)
        rows.append([*row, *cells, *run.costs(), run.remark])
    facts = ["seed", "state", "step", "steps", *_published_title(study)]
    costs = ["training seconds", "evaluation seconds", "images/s", "peak memory bytes", "remark"]
    _write_rows(path, ["run", "setting", *study.fields, *facts, *names, *costs], rows)


def _published_title(study: Study) -> list[str]:
    return [study.published.title] if study.published else []


def _published(study: Study, setting: str) -> list[str]:
    """Returns the cell of the column of published figures, if there is one."""
    if study.published is None:
        return []
    return [_digits(study.published.values.get(setting, np.nan) / 100)]


def _overrides(study: Study, run: Result) -> list[Any]:
    return [run.overrides.get(field, "") for field in study.fields]


def write_curves(figures: Figures, path: pathlib.Path) -> None:
    """Writes a row for each (counted run, number of proposals, IoU threshold)."""
    rows = [
        [run.name, run.setting, top_n, f"{threshold:.2f}", _digits(value)]
        for run in figures.runs
        for top_n in numbers_up_to(figures.most)
        for threshold, value in zip(
            IOU_THRESHOLDS, run.evaluation.objects.recall(top_n), strict=True
        )
    ]
    _write_rows(path, ["run", "setting", "proposals", "IoU", "recall"], rows)


def _write_rows(path: pathlib.Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    cells = [[csv_cell(value) for value in row] for row in [header, *rows]]
    csv.writer(text, lineterminator="\n").writerows(cells)
    write_bytes(path, text.getvalue().encode())


def _digits(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"
