"""The report on a run, several runs or a sweep: what the command `report` writes.

The same runs give the same files, byte for byte.
"""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rpn_jax.errors import UserError
from rpn_jax.files import check_out
from rpn_jax.reports.comparison import (
    SIGNIFICANT,
    Comparison,
    Figures,
    compute_figures,
    difference_cell,
)
from rpn_jax.reports.csv_files import write_curves, write_runs, write_settings
from rpn_jax.reports.curves import learning_curves, overview, recall_of_run, recall_of_settings
from rpn_jax.reports.document import Cell, Part, Section, Table, Text, percent, write_document
from rpn_jax.reports.evaluations import MEANINGS, Evaluation
from rpn_jax.reports.origin import origin_section
from rpn_jax.reports.precision import precision_of_run, precision_of_settings
from rpn_jax.reports.published import agreement, published_header, with_published
from rpn_jax.reports.results import Study, gather
from rpn_jax.reports.single_run import ablation_section, breakdown_section, picture_section
from rpn_jax.reports.statistics import interval, mean_and_deviation
from rpn_jax.tables import format_table
from rpn_jax.text import printable

_NONE = "–"
_KINDS = {"done": "done but not counted", "missing": "not begun"}


def write_report(folders: Sequence[pathlib.Path], out: pathlib.Path | None = None) -> str:
    """Writes a report on the runs of the folders; returns what to print.

    `out` is by default the folder `report` in the folder of the run or sweep.

    Raises:
        UserError: see `gather`; also several folders without `out`, and files that cannot be
            written.
    """
    if out is None:
        if len(folders) > 1:
            raise UserError(
                f"--out: is not given; name a folder for the report on {len(folders)} folders"
            )
        out = folders[0] / "report"
    study = gather(folders)
    check_out(out, folder=True)
    figures = compute_figures(study)
    is_one = len(study.runs) == 1
    of_base = figures.compare(study.base, against_it=True) if study.base in figures.settings else {}
    if is_one:
        table, main = _run_sections(figures, out)
    else:
        table, main = _study_sections(study, figures, of_base, out)
    sections = [
        *main,
        learning_curves(study, out),
        _costs_section(study, figures),
        origin_section(study),
    ]
    write_settings(study, figures, of_base, out / "settings.csv")
    write_runs(study, figures, out / "runs.csv")
    write_curves(figures, out / "curves.csv")
    write_document(f"{'Run' if is_one else 'Report on'} {study.title}", sections, out)
    return f"{format_table([table.header, *table.rows])}\n{printable(out / 'report.html')}"


def _study_sections(
    study: Study, figures: Figures, of_base: dict[str, Comparison], out: pathlib.Path
) -> tuple[Table, list[Section]]:
    table = _settings_table(study, figures)
    sections = [
        Section("Summary", [*_summary(study, figures), overview(study, figures, out)]),
        Section("Settings", [table, *agreement(study, figures)]),
    ]
    if len(figures.settings) > 1:
        sections.append(_differences(study, figures, of_base))
    sections += [precision_of_settings(study, figures, kind, out) for kind in figures.kinds]
    return table, [*sections, recall_of_settings(study, figures, out)]


def _summary(study: Study, figures: Figures) -> list[Text]:
    kinds = collections.Counter(
        "counted" if run.remark is None else run.state.state for run in study.runs
    )
    listed = ", ".join(f"{count} {_KINDS.get(kind, kind)}" for kind, count in sorted(kinds.items()))
    settings = len(study.settings)
    text = (
        f"{_counted(study)} of {settings} setting{'s' if settings > 1 else ''}: {listed}. "
        f"Measured on {_measured_on(figures.runs[0].evaluation)}."
    )
    left_out = len(study.runs) - len(figures.runs)
    texts = [text + (" Why runs are not counted stands below, at “Runs”." if left_out else "")]
    if study.evaluations:
        ways = "; ".join(f"{name}: {_changes(way)}" for name, way in study.evaluations.items())
        texts.append(f"Each run is trained once and measured in several ways. {ways}.")
    return list(map(Text, texts))


def _counted(study: Study) -> str:
    trained = len({run.folder for run in study.runs})
    number = f"{trained} run{'s' if trained > 1 else ''}"
    return f"{len(study.runs)} evaluations of {number}," if study.evaluations else number


def _changes(fields: Mapping[str, Any]) -> str:
    """Returns what an evaluation changes, for a reader."""
    parts = fields.get("without", ())
    without = [parts] if isinstance(parts, str) else parts
    changed = [f"{field}={value}" for field, value in fields.items() if field != "without"]
    return ", ".join([*(f"without {part}" for part in without), *changed]) or "as in the config"


def _measured_on(evaluation: Evaluation) -> str:
    objects, figures = evaluation.objects, evaluation.figures
    return (
        f"{figures['dataset']} {figures['split']}: {len(objects.image_id)} images, "
        f"{len(objects.box)} objects"
    )


def _settings_table(study: Study, figures: Figures) -> Table:
    best = figures.best()
    rows = []
    for name, runs in study.settings.items():
        places = figures.settings.get(name, [])
        cells = [_NONE] * len(figures.names)
        if places:
            means, deviations = mean_and_deviation(figures.values[places])
            cells = [
                percent(mean) + ("" if np.isnan(deviation) else f" ± {100 * deviation:.1f}")
                for mean, deviation in zip(means, deviations, strict=True)
            ]
            cells = [Cell((cell,), is_strong=best[m] == name) for m, cell in enumerate(cells)]
        labels = study.labels(name)
        if name == study.base and len(study.settings) > 1:
            labels[0] += " (base)"
        cells = with_published(study, figures, name, cells)
        rows.append([*labels, f"{len(places)} of {len(runs)}", *cells])
    several = any(len(places) > 1 for places in figures.settings.values())
    spread = "mean ± standard deviation over the seeds" if several else "one seed a setting"
    note = f"In per cent; {spread}. {_meaning(figures)}"
    if len(figures.settings) > 1:
        note += (
            " Bold: the best, where its difference to each other setting is more than noise "
            f"(p < {SIGNIFICANT}, found as below)."
        )
    if study.published:
        note += f" The {study.published.title} is that of {study.published.source}, in per cent."
    header = [*study.label_names, "runs", *published_header(study, figures)]
    return Table(header, rows, names=len(study.label_names), note=note)


def _meaning(figures: Figures) -> str:
    last = figures.measured[-1]
    of_whom = last.name.rpartition("recall@")[0]  # "proposals ", or ""
    recall = (
        f"{of_whom}AR@N: mean recall of the best N proposals over IoU 0.50 to 0.95. "
        f"{of_whom}recall@t: recall of the best {last.top_n} proposals at IoU t."
    )
    precision = [MEANINGS[name] for name in figures.names if MEANINGS.get(name)]
    return " ".join([*precision, recall])


def _differences(study: Study, figures: Figures, of_base: dict[str, Comparison]) -> Section:
    title = "Difference to the base"
    if study.base not in figures.settings:
        return Section(title, [Text(f"No run of the base, {study.base}, is counted.")])
    rows = []
    for name in figures.settings:
        if name == study.base:
            continue
        seeds, cells = 0, [_NONE] * len(figures.names)
        if comparison := of_base.get(name):
            seeds = comparison.seeds
            columns = zip(*comparison.difference[:3], comparison.p, strict=True)
            cells = [difference_cell(*column) for column in columns]
        rows.append([*study.labels(name), str(seeds), *cells])
    note = (
        "In percentage points: the mean difference over the seeds that both have, its 95 % "
        "interval, and p of there being none. Both hold the noise of the images, by a bootstrap "
        "with the same draw for both settings, and that of the seeds, by Student's t. A row of "
        "one seed has no p and no mark: the noise over seeds is unknown, and the interval is of "
        "the images alone. p is corrected for all settings and figures of this table (Holm), the "
        f"interval is not. Bold: p < {SIGNIFICANT}."
    )
    header = [*study.label_names, "seeds", *figures.names]
    table = Table(header, rows, names=len(study.label_names), note=note)
    return Section(title, [Text(f"The base is {study.base}."), table])


def _run_sections(figures: Figures, out: pathlib.Path) -> tuple[Table, list[Section]]:
    run = figures.runs[0]
    table = _run_table(figures)
    step, steps = run.evaluation.step, run.history.config["steps"]
    text = f"Measured after step {step} of {steps} on {_measured_on(run.evaluation)}."
    # Below the first pictures, which then are on the first screen of a telephone.
    note = (
        f"{_meaning(figures)} Small, medium and large are COCO's. 95 % interval: bootstrap over "
        "the images; it does not tell how far another seed would come out."
    )
    sections = [
        Section("Summary", [Text(text), table]),
        *(precision_of_run(figures, kind, out) for kind in figures.kinds),
        recall_of_run(figures, out, note),
        breakdown_section(run.evaluation, figures.measured),
        picture_section(run, figures.measured[-1].top_n, out),
        ablation_section(run, figures.measured),
    ]
    return table, [section for section in sections if section]


def _run_table(figures: Figures) -> Table:
    low, high = interval(figures.replicates[:, 0])
    rows = [
        [name, percent(value), _NONE if np.isnan(a) else f"{percent(a)} to {percent(b)}"]
        for name, value, a, b in zip(figures.names, figures.values[0], low, high, strict=True)
    ]
    scalars = figures.runs[0].evaluation.figures["scalars"]
    firsts = {next(iter(kind.meanings)): kind.scalars[0] for kind in figures.kinds}
    for title, first in (firsts or {figures.names[0]: figures.names[0]}).items():
        kind, at, number = first.partition("@")
        for size in ("small", "medium", "large"):
            if (value := scalars.get(f"{kind}_{size}{at}{number}")) is not None:
                rows.append([f"{title} of {size} objects", percent(value), ""])
    return Table(["figure", "%", "95 % interval"], rows)


def _costs_section(study: Study, figures: Figures) -> Section:
    # For a single run they are at the top.
    names = figures.names if len(study.runs) > 1 else []
    rows = []
    for run in study.runs:
        values = figures.of_run(run.name)
        cells = [_NONE] * len(names) if values is None else list(map(percent, values))
        seconds, measuring, rate, memory = run.costs()
        rows.append(
            [
                run.name,
                *cells[: len(names)],
                _duration(seconds),
                _duration(measuring),
                f"{rate:.3g}" if rate else _NONE,
                f"{memory / 2**30:.2f} GiB" if memory else _NONE,
            ]
        )
    costs = ["training", "evaluation", "images/s", "peak memory"]
    note = (
        "Training: with compilation and validations, of all starts of which a step is left. "
        "images/s: the median over the training. Peak memory: of the first device, on CPUs of the "
        "process."
    )
    if names:
        note = f"Figures in per cent. {note}"
    parts: list[Part] = [Table(["run", *names, *costs], rows, note=note)]
    if left_out := [[run.name, run.remark] for run in study.runs if run.remark]:
        parts += [Text("Not counted:"), Table(["run", "why"], left_out, names=2)]
    return Section("Runs" if len(study.runs) > 1 else "Time and memory", parts)


def _duration(seconds: float | None) -> str:
    if not seconds:
        return _NONE
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
