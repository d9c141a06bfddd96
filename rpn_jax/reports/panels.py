"""Plots of a report: small panels side by side with one legend.

A panel is drawn for a width of about 400 pixels, so that its letters stay readable on a telephone.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from matplotlib.lines import Line2D

from rpn_jax.visualize.plots import (
    COLORS,
    LINES,
    MARKERS,
    fit_percent,
    new_figure,
    plain_label,
    save_figure,
)

_SIZE = (5.0, 3.9)  # inches
_MOST_MARKERS = 16  # most markers on a line
_LONGEST = 32  # most letters of a name beside its dots


class Line(NamedTuple):
    """A line of a panel. `look`, a number from 0 on, determines colour, style and marker.

    A faint line is thin and without markers: a single run, beside the mean of its setting.
    """

    name: str
    look: int
    x: Shaped[np.ndarray, " n"]
    y: Shaped[np.ndarray, " n"]
    is_faint: bool = False


def plot_panel(
    lines: Sequence[Line],
    path: str | os.PathLike,
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    in_percent: bool = False,
    legend: bool = False,
) -> None:
    """Plots lines into a panel with that title and labels of its axes.

    Points that are not finite are left out. The y axis fits the others; with `in_percent` it stays
    within 0 to 100. With `legend`, the legend names the lines that are not faint.
    """
    figure, (axes,) = new_figure(*_SIZE)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    if log_y:
        axes.set_yscale("log")
    for line in sorted(lines, key=lambda line: not line.is_faint):
        kept = np.isfinite(line.y)
        axes.plot(line.x[kept], line.y[kept], **_style(line, int(kept.sum())))
    if in_percent:
        fit_percent(axes)
    if legend:
        axes.legend(frameon=False, handlelength=3.5)
    save_figure(figure, path)


def plot_dots(lines: Sequence[Line], path: str | os.PathLike, *, x_label: str) -> None:
    """Plots a row for each line: the mean of its y, large, and the values themselves, faint."""
    figure, (axes,) = new_figure(_SIZE[0], 0.9 + 0.26 * len(lines))
    for row, line in enumerate(lines):
        style = {"color": COLORS[line.look % len(COLORS)], "linestyle": "none"}
        axes.plot(line.y, np.full(len(line.y), row), marker="o", alpha=0.4, markersize=4, **style)
        marker = MARKERS[line.look % len(MARKERS)]
        axes.plot([np.mean(line.y)], [row], marker=marker, markersize=7, **style)
    names = [line.name for line in lines]
    # The end of a setting's name has its value.
    shown = [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in names]
    axes.set_yticks(range(len(lines)), [plain_label(name) for name in shown])
    axes.set(xlabel=x_label, ylim=(len(lines) - 0.5, -0.5))
    save_figure(figure, path)


def plot_legend(names: Sequence[str], path: str | os.PathLike) -> None:
    """Plots the looks 0, 1, … beside their names."""
    height = 0.35 + 0.24 * len(names)
    figure, (axes,) = new_figure(_SIZE[0], height)
    axes.axis("off")
    nothing = np.zeros(0)
    styles = [_style(Line(name, i, nothing, nothing), 0) for i, name in enumerate(names)]
    handles = [Line2D([], [], **style) for style in styles]
    axes.legend(handles=handles, loc="upper left", frameon=False, handlelength=4, borderpad=0)
    save_figure(figure, path)


def _style(line: Line, points: int) -> dict[str, object]:
    look = line.look
    style = {"color": COLORS[look % len(COLORS)], "linestyle": LINES[look % len(LINES)]}
    if line.is_faint:
        return {**style, "linewidth": 0.7, "alpha": 0.4}
    every = max(1, -(-points // _MOST_MARKERS))
    marker = {"marker": MARKERS[look % len(MARKERS)], "markersize": 5, "markevery": every}
    return {**style, **marker, "linewidth": 1.6, "label": plain_label(line.name), "clip_on": False}
