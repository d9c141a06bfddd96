"""Plots of recall, precision, losses and anchor coverage, as PNG or SVG by the suffix of the path.

They use Matplotlib's objects without pyplot, so they need no display, leave no state behind and
may be drawn from any thread. Lines differ by style and marker as well as by colour.
"""

import io
import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rpn_jax.errors import UserError
from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.evaluation.recall import RecallResult
from rpn_jax.evaluation.weighted import RECALL_POINTS
from rpn_jax.files import write_bytes
from rpn_jax.text import printable

# Okabe and Ito's palette without its yellow, which is too light on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_TRAIN = "train/"  # what the names of a training's metrics begin with


def plot_recall_to_iou(
    results: Mapping[str, RecallResult],
    path: str | os.PathLike,
    *,
    top_ns: Sequence[int] | None = None,
) -> None:
    """Plots recall against the IoU threshold, a line for each top N of each named result.

    The axes are those of the paper's Figure 4 (`evaluation.recall` says how its protocol differs).
    The AR beside a line's name is the line's mean. `top_ns` is a subset of the results' N. The line
    style stands for N; colour and marker stand for the result if there are several, else for N.
    A result without objects has no line.
    """
    figure, (axes,) = new_figure(7.2, 5.0)
    several = len(results) > 1
    for r, (name, result) in enumerate(results.items()):
        for n, top_n in enumerate(sorted(top_ns or result.top_ns, reverse=True)):
            look = r if several else n
            label = f"top {top_n}: AR {100 * result.average_recall(top_n):.1f} %"
            axes.plot(
                IOU_THRESHOLDS,
                100 * result.curve(top_n),
                label=plain_label(f"{name}, {label}" if several else label),
                color=COLORS[look % len(COLORS)],
                marker=MARKERS[look % len(MARKERS)],
                linestyle=LINES[n % len(LINES)],
                linewidth=1.8,
                markersize=5.5,
                clip_on=False,  # whole markers at 0 and 100 %
            )
    axes.set(xlabel="IoU threshold", ylabel="Recall (%)", xlim=(0.49, 0.96))
    fit_percent(axes)
    axes.set_xticks(IOU_THRESHOLDS)
    axes.set_title("Recall of objects" + ("" if several else "".join(f", {n}" for n in results)))
    axes.legend(frameon=False, handlelength=3.5)
    save_figure(figure, path)


def precision_lines(
    curves: Mapping[str, Sequence[float]],
) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns the curves at IoU 0.5 and 0.75 and their mean over all thresholds, by label.

    `curves` is `precision` of a detector's figures; {} without objects gives no curve. The mean of
    a curve, beside its label, is the average precision.
    """
    names = {"0.50": "IoU 0.50", "0.75": "IoU 0.75", "mean": "mean of 0.50 to 0.95"}
    return {
        f"{name}: AP {100 * np.mean(curves[key]):.1f} %": np.array(curves[key])
        for key, name in names.items()
        if key in curves
    }


def plot_precision(
    curves: Mapping[str, Sequence[float]], path: str | os.PathLike, *, title: str
) -> None:
    """Plots the classes' mean precision against recall; for `curves` see `precision_lines`."""
    figure, (axes,) = new_figure(7.2, 5.0)
    for i, (label, precision) in enumerate(precision_lines(curves).items()):
        axes.plot(
            100 * RECALL_POINTS,
            100 * precision,
            label=label,
            color=COLORS[i],
            linestyle=LINES[i],
            linewidth=1.8,
            clip_on=False,
        )
    axes.set(xlabel="Recall (%)", ylabel="Precision (%)", xlim=(0, 100), title=plain_label(title))
    fit_percent(axes)
    if axes.lines:
        axes.legend(frameon=False, handlelength=3.5)
    save_figure(figure, path)


def plot_losses(
    rows: Sequence[Mapping[str, float | int]],
    path: str | os.PathLike,
    *,
    names: Sequence[str] | None = None,
) -> None:
    """Plots losses in the rows of a run's `metrics.jsonl` by step, on a logarithmic scale.

    By default these are all that the training has. The faint line shows the logged values, the
    strong line their mean over a window of a fiftieth of the rows. Rows without a finite value of
    a loss have no point on its lines.
    """
    if names is None:
        names = dict.fromkeys(n for row in rows for n in row if n.startswith(f"{_TRAIN}loss"))
    figure, (axes,) = new_figure(7.2, 4.2)
    for i, name in enumerate(names):
        points = [(row["step"], row[name]) for row in rows if np.isfinite(row.get(name, np.nan))]
        if not points:
            continue
        steps, values = np.array(points, np.float64).T
        color, line = COLORS[i % len(COLORS)], LINES[i % len(LINES)]
        axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.3)
        label = name.removeprefix(_TRAIN)
        axes.plot(steps, smooth(values), color=color, linestyle=line, linewidth=1.8, label=label)
    axes.set(xlabel="Step", ylabel="Loss", title="Training losses", yscale="log")
    if axes.lines:
        axes.legend(frameon=False, handlelength=3.5)
    save_figure(figure, path)


def plot_coverage(
    objects: Float[np.ndarray, "n 2"],
    anchors: Mapping[str, Float[np.ndarray, "_ 2"]],
    best_iou: Mapping[str, Float[np.ndarray, " n"]],
    path: str | os.PathLike,
) -> None:
    """Plots the shapes of objects and of named sets of anchors, and how well each set fits.

    The left panel has widths and heights, in pixels. The right panel has the share of objects by
    their best IoU with an anchor of each set; the mean stands beside the set's name.
    """
    figure, axes = new_figure(12.0, 5.0, columns=2)
    shapes, histogram = axes
    # A hundred thousand dots become one bitmap, also in an SVG.
    dots = dict(s=6, alpha=0.3, linewidths=0, color="0.45", rasterized=True)
    shapes.scatter(*objects.T, label=f"objects ({len(objects)})", **dots)
    for i, (name, sides) in enumerate(anchors.items()):
        look = dict(color=COLORS[i], marker=MARKERS[i], linestyle="none", fillstyle="none")
        shapes.plot(*sides.T, label=f"anchors, {name}", markeredgewidth=1.8, markersize=8, **look)
    shapes.set(xlabel="Width (pixels)", ylabel="Height (pixels)")
    shapes.loglog(base=2)
    for axis in (shapes.xaxis, shapes.yaxis):
        axis.set_major_formatter("{x:g}")
    shapes.set_aspect("equal", adjustable="datalim")
    shapes.set_title("Shapes in the resized image")
    for i, (name, iou) in enumerate(best_iou.items()):
        counts, edges = np.histogram(iou, bins=20, range=(0, 1))
        label = f"{name}: mean {iou.mean():.3f}"
        look = dict(color=COLORS[i], linestyle=LINES[i], linewidth=1.8)
        histogram.stairs(100 * counts / len(iou), edges, label=label, **look)
    histogram.set(xlabel="Best IoU with an anchor", ylabel="Objects (%)", xlim=(0, 1))
    histogram.set_title("Best anchor of each object")
    for one in axes:
        for handle in one.legend(frameon=False, handlelength=3.5).legend_handles:
            handle.set_alpha(1)
    save_figure(figure, path)


def fit_percent(axes: Axes) -> None:
    """Fits the y axis to its lines, within 0 to 100, so that a recall of 10 % is easy to read."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(100.0, high))


def plain_label(text: str) -> str:
    """Returns text as a label that Matplotlib shows unchanged: no formula, and not left out."""
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def smooth(values: np.ndarray) -> np.ndarray:
    """Returns the moving mean; the window reaches a hundredth of the rows to either side."""
    reach = len(values) // 100
    sums = np.concatenate([[0.0], np.cumsum(values)])
    start = np.maximum(np.arange(len(values)) - reach, 0)
    stop = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Returns a figure of that size in inches and its panels, in the style of all plots here."""
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False)[0].tolist()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    return figure, panels


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes the figure as PNG or SVG; the same figure gives the same bytes.

    Raises UserError for another suffix or if the file cannot be written.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UserError(f"{path}: cannot write a {suffix or 'suffixless'} plot; use .png or .svg")
    content = io.BytesIO()
    # An SVG would otherwise hold the time and random ids.
    metadata = {"Date": None} if suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "rpn_jax"}):
        figure.savefig(content, format=suffix[1:], dpi=160, metadata=metadata)
    write_bytes(path, content.getvalue())
