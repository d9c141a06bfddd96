"""The curves of a report: recall against IoU and number of proposals, and learning."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rpn_jax.evaluation.figures import headline_recall
from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.reports.comparison import Figures
from rpn_jax.reports.document import Part, Picture, Pictures, Section, Text
from rpn_jax.reports.evaluations import Evaluation
from rpn_jax.reports.panels import Line, plot_dots, plot_legend, plot_panel
from rpn_jax.reports.results import Study
from rpn_jax.visualize.plots import smooth

_NUMBERS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10_000)


class Panel(NamedTuple):
    """A plot of a curve of every run: its name, the curve, and the options of `plot_panel`."""

    name: str
    x: Float[np.ndarray, " n"] | Int[np.ndarray, " n"]
    curve: Callable[[Evaluation], Float[np.ndarray, " n"]]
    options: dict[str, Any]


def numbers_up_to(most: int) -> list[int]:
    """Returns the numbers of proposals at which recall is reported, the last of them `most`."""
    return [n for n in _NUMBERS if n < most] + [most]


def overview(study: Study, figures: Figures, out: pathlib.Path) -> Pictures:
    """Plots the headline of every run, a row for each setting."""
    headline = figures.runs[0].evaluation.headline
    if headline not in figures.names:
        headline = [m.name for m in figures.measured if m.threshold is None][-1]
    place = figures.names.index(headline)
    lines = [
        Line(name, look, np.arange(len(places)), 100 * figures.values[places, place])
        for name, look, places in _counted(study, figures)
    ]
    plot_dots(lines, out / "plots/overview.svg", x_label=f"{headline} (%)")
    text = f"{headline} of each setting: the mean, and its runs"
    return Pictures([Picture("plots/overview.svg", text)])


def _counted(study: Study, figures: Figures) -> Iterator[tuple[str, int, list[int]]]:
    """Yields the name, look and runs of each setting with figures; looks count all settings."""
    for look, name in enumerate(study.settings):
        if name in figures.settings:
            yield name, look, figures.settings[name]


def recall_of_settings(study: Study, figures: Figures, out: pathlib.Path) -> Section:
    """Plots every run that counts, and the mean of each setting, into panels with one legend."""
    numbers = numbers_up_to(figures.most)
    to_iou = {"x_label": "IoU threshold", "y_label": "Recall (%)"}
    to_number = {"x_label": "Number of proposals", "log_x": True}
    average = [measure.top_n for measure in figures.measured if measure.threshold is None]
    panels = [
        Panel(
            f"recall_to_iou_{top_n}",
            IOU_THRESHOLDS,
            lambda run, top_n=top_n: run.objects.recall(top_n),
            {"title": f"Recall of {top_n} proposals", **to_iou},
        )
        for top_n in average
    ] + [
        Panel(
            "ar_to_number",
            np.array(numbers),
            lambda run: np.array([run.objects.average_recall(n) for n in numbers]),
            {"title": "Average recall", "y_label": "AR (%)", **to_number},
        ),
        Panel(
            "recall_to_number",
            np.array(numbers),
            lambda run: np.array([run.objects.recall(n)[0] for n in numbers]),
            {"title": "Recall at IoU 0.5", "y_label": "Recall (%)", **to_number},
        ),
    ]
    return Section("Recall", plot_settings(study, figures, panels, out))


def plot_settings(
    study: Study, figures: Figures, panels: Sequence[Panel], out: pathlib.Path
) -> list[Part]:
    """Plots a curve of every run that counts, and the mean of each setting, into each panel."""
    pictures = [_legend(study, out)]
    for panel in panels:
        file, options = f"plots/{panel.name}.svg", panel.options
        plot_panel(_lines(study, figures, panel), out / file, in_percent=True, **options)
        text = f"{options['title']}: {options['y_label']} to {options['x_label']}"
        pictures.append(Picture(file, text))
    parts: list[Part] = [Pictures(pictures)]
    if any(len(places) > 1 for places in figures.settings.values()):
        parts.append(Text("Strong lines are means over the seeds, faint ones single runs."))
    return parts


def _lines(study: Study, figures: Figures, panel: Panel) -> list[Line]:
    """Returns the mean curve of each setting, and those of its runs where it has several."""
    lines = []
    for name, look, places in _counted(study, figures):
        curves = 100 * np.stack([panel.curve(figures.runs[r].evaluation) for r in places])
        lines.append(Line(name, look, panel.x, curves.mean(axis=0)))
        if len(places) > 1:
            lines += [Line(name, look, panel.x, one, is_faint=True) for one in curves]
    return lines


def _legend(study: Study, out: pathlib.Path) -> Picture:
    file = "plots/legend.svg"
    plot_legend(list(study.settings), out / file)
    return Picture(file, f"The lines of the plots: {'; '.join(study.settings)}")


def recall_of_run(figures: Figures, out: pathlib.Path, note: str) -> Section:
    """Plots the recall of the first run alone; `note` is a paragraph about its figures."""
    objects, most = figures.runs[0].evaluation.objects, figures.most
    top_ns = sorted({n for n in (10, 100, 300, 1000) if n < most} | {most}, reverse=True)
    to_iou = {f"{n} proposals": objects.recall(n) for n in top_ns}
    numbers = numbers_up_to(most)
    recall = np.array([objects.recall(n) for n in numbers])
    to_number = {"IoU 0.5": recall[:, 0], "IoU 0.7": recall[:, 4], "AR": recall.mean(axis=1)}
    pictures = []
    for kind, label, x, curves in (
        ("iou", "IoU threshold", IOU_THRESHOLDS, to_iou),
        ("number", "Number of proposals", np.array(numbers), to_number),
    ):
        lines = [Line(name, i, x, 100 * y) for i, (name, y) in enumerate(curves.items())]
        file = f"plots/recall_to_{kind}.svg"
        plot_panel(
            lines,
            out / file,
            title="Recall of objects",
            x_label=label,
            y_label="Recall (%)",
            log_x=kind == "number",
            in_percent=True,
            legend=True,
        )
        pictures.append(Picture(file, f"Recall of objects: Recall (%) to {label}"))
    return Section("Recall", [Pictures(pictures), Text(note)])


def learning_curves(study: Study, out: pathlib.Path) -> Section:
    """Plots losses and validations against the step, also of unfinished runs."""
    is_one = len(study.runs) == 1
    pictures = []
    if is_one:
        rows = study.runs[0].rows
        names = [name for name in _names(rows) if name.startswith("train/loss")]
        losses = [_logged(rows, name, look) for look, name in enumerate(names)]
        losses = [line for lines in losses for line in lines]
    else:
        losses = _by_setting(study, "train/loss")
        pictures.append(_legend(study, out))
    if losses:
        options = {"title": "Training loss", "y_label": "Loss", "log_y": True, "legend": is_one}
        plot_panel(losses, out / "plots/loss.svg", x_label="Step", **options)
        pictures.append(Picture("plots/loss.svg", "Training loss to step"))
    validations = [_validation(study, name, out) for name in _validated_numbers(study)]
    pictures += filter(None, validations)
    if not (losses or any(validations)):
        return Section("Learning curves", [Text("Nothing was logged.")])
    return Section("Learning curves", [Pictures(pictures)])


def _validation(study: Study, name: str, out: pathlib.Path) -> Picture | None:
    """Plots a figure of the validations against the step; returns None where none is logged."""
    logged = f"validation/{name}"
    if len(study.runs) == 1:
        # A validation is no mean over steps, so it is not smoothed.
        lines = _logged(study.runs[0].rows, logged, 0, 100)[:1]
        lines = [line._replace(is_faint=False) for line in lines]
    else:
        lines = _by_setting(study, logged, 100)
    if not lines:
        return None
    part = name[: name.rfind("_") + 1]  # "masks_" of masks_AP
    file, title = f"plots/{part}validation.svg", name.replace("_", " ")
    options = {"title": f"Validation, {title}", "y_label": f"{title} (%)"}
    plot_panel(lines, out / file, x_label="Step", **options)
    return Picture(file, f"Validation {title} to step")


def _validated_numbers(study: Study) -> list[str]:
    """Returns the name of the runs' headline among a validation's figures, and of its parts'.

    If evaluation and validation have different numbers of proposals, it is the headline of the
    validation's numbers.
    """
    logged = [name for run in study.runs for name in _names(run.rows)]
    names = [name.removeprefix("validation/") for name in dict.fromkeys(logged)]
    headline = study.counted[0].evaluation.headline
    numbers = [name.removeprefix("AR@") for name in names if name.startswith("AR@")]
    if headline not in names and (top_ns := [int(n) for n in numbers if n.isdecimal()]):
        headline = headline_recall(sorted(top_ns))
    return [headline, *(name for name in names if name.endswith(f"_{headline}"))]


def _names(rows: Sequence[Mapping[str, float | int]]) -> list[str]:
    """Returns the names of all logged numbers, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _points(rows: Sequence[Mapping[str, float | int]], name: str) -> dict[int, float]:
    return {row["step"]: row[name] for row in rows if name in row}


def _logged(
    rows: Sequence[Mapping[str, float | int]], name: str, look: int, factor: float | int = 1
) -> list[Line]:
    """Returns a metric's lines, raw (faint) and smoothed; none if it was not logged."""
    points = _points(rows, name)
    if not points:
        return []
    steps, values = np.array(list(points)), factor * np.array(list(points.values()))
    label = name.partition("/")[2]
    return [
        Line(label, look, steps, values, is_faint=True),
        Line(label, look, steps, smooth(values)),
    ]


def _by_setting(study: Study, name: str, factor: float | int = 1) -> list[Line]:
    """Returns a metric of every run, and its mean over each setting's counted runs."""
    lines = []
    for look, (setting, runs) in enumerate(study.settings.items()):
        for run in runs:
            lines += _logged(run.rows, name, look, factor)[:1]
        counted = [_points(run.rows, name) for run in runs if run.remark is None]
        steps = sorted(set.intersection(*map(set, counted))) if counted else []
        if steps:
            values = np.array([[points[step] for step in steps] for points in counted])
            mean = factor * values.mean(axis=0)
            mean = smooth(mean) if name.startswith("train/") else mean
            lines.append(Line(setting, look, np.array(steps), mean))
    return lines
