"""Sections of a report about detections and masks. Runs without any have none."""

import pathlib
from collections.abc import Mapping

import numpy as np

from rpn_jax.evaluation.precision import CLASS_FIGURES, ERRORS, SCALARS
from rpn_jax.evaluation.weighted import RECALL_POINTS
from rpn_jax.reports.comparison import Figures
from rpn_jax.reports.curves import Panel, plot_settings
from rpn_jax.reports.document import Picture, Pictures, Section, Table, percent
from rpn_jax.reports.evaluations import Precision
from rpn_jax.reports.panels import Line, plot_panel
from rpn_jax.reports.results import Study
from rpn_jax.visualize.plots import precision_lines

_AXES = {"x_label": "Recall (%)", "y_label": "Precision (%)"}
_FIGURES_NOTE = (
    "AR@N: mean recall of the best N detections of an image and class. VOC07: VOC's average "
    "precision of 2007, with eleven points; VOC12: the area, as since 2010; both at IoU 0.5. All "
    "are means over the classes that have objects."
)
_ERRORS_NOTE = (
    "The points by which AP50 would rise if all errors of a kind were mended, and only those "
    "(TIDE). Class: a good box of another class. Box: the right class, IoU 0.1 to 0.5. Both: "
    "another class, IoU 0.1 to 0.5. Duplicate: of an object that a better detection found. "
    "Background: IoU at most 0.1 with every object. Missed: objects without a detection of the "
    "kinds class and box."
)


def precision_of_run(figures: Figures, kind: Precision, out: pathlib.Path) -> Section:
    """Returns the precision of a run's detections or masks, by class and by error."""
    scalars = figures.runs[0].evaluation.figures["scalars"]
    content = kind.details_of(figures.runs[0].evaluation.figures)
    file, title = f"plots/{kind.prefix}precision.svg", f"Precision of {kind.title.lower()}"
    lines = [
        Line(label, look, 100 * RECALL_POINTS, 100 * curve)
        for look, (label, curve) in enumerate(precision_lines(content["precision"]).items())
    ]
    plot_panel(lines, out / file, title=title, in_percent=True, legend=True, **_AXES)
    text = f"{title}: {_AXES['y_label']} to {_AXES['x_label']}"
    of_all = [
        [name, percent(scalars[f"{kind.prefix}{name}"])]
        for name in SCALARS
        if f"{kind.prefix}{name}" in scalars
    ]
    classes = [
        [row["name"], str(row["objects"]), *(_percent(row[name]) for name in CLASS_FIGURES)]
        for row in content["classes"]
    ]
    return Section(
        kind.title,
        [
            Pictures([Picture(file, text)]),
            Table(["figure", "%"], of_all, note=_note(kind, _FIGURES_NOTE)),
            Table(ERRORS, [_parts(content["errors"])], names=0, note=_note(kind, _ERRORS_NOTE)),
            Table(["class", "objects", *CLASS_FIGURES], classes, note="In per cent."),
        ],
    )


def precision_of_settings(
    study: Study, figures: Figures, kind: Precision, out: pathlib.Path
) -> Section:
    """Returns the precision of all runs, and what the errors of each setting cost."""
    panels = [
        Panel(
            f"{kind.prefix}precision_{key.replace('.', '_')}",
            100 * RECALL_POINTS,
            lambda run, key=key: np.array(kind.details_of(run.figures)["precision"][key]),
            {"title": title, **_AXES},
        )
        for key, title in (("0.50", "Precision at IoU 0.5"), ("mean", "Mean of IoU 0.50 to 0.95"))
    ]
    rows = []
    for name, places in figures.settings.items():
        errors = [kind.details_of(figures.runs[r].evaluation.figures)["errors"] for r in places]
        mean = {error: np.mean([of_run[error] for of_run in errors]) for error in ERRORS}
        rows.append([*study.labels(name), *_parts(mean)])
    names = study.label_names
    note = _note(kind, _ERRORS_NOTE)
    table = Table([*names, *ERRORS], rows, names=len(names), note=note)
    return Section(kind.title, [*plot_settings(study, figures, panels, out), table])


def _note(kind: Precision, of_boxes: str) -> str:
    """Returns what a table means, which stands once."""
    return f"As above; IoUs are those of {kind.title.lower()}." if kind.details else of_boxes


def _parts(errors: Mapping[str, float]) -> list[str]:
    return [f"{100 * errors[kind]:+.1f}" for kind in ERRORS]


def _percent(ratio: float | None) -> str:
    return percent(np.nan if ratio is None else ratio)
