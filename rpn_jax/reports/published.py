"""A study beside published figures of its settings: the column, and what agrees."""

import collections
from typing import NamedTuple

from rpn_jax.reports.comparison import SIGNIFICANT, Comparison, Figures, difference_cell, points
from rpn_jax.reports.document import Cell, Fold, Part, Table, Text
from rpn_jax.reports.results import Study
from rpn_jax.sweeps.published import Published

_MOST_PAIRS = 8  # that are shown at once
_VERDICTS = ("the same", "the opposite", "none")


def published_header(study: Study, figures: Figures) -> list[str]:
    """Returns the names of the figures, with that of the published ones."""
    names = list(figures.names)
    if study.published:
        names.insert(_place(study.published, figures), study.published.title)
    return names


def with_published(
    study: Study, figures: Figures, setting: str, cells: list[str | Cell]
) -> list[str | Cell]:
    """Returns a setting's cells, with that of the published figure beside ours."""
    if study.published is None:
        return cells
    value = study.published.values.get(setting)
    place = _place(study.published, figures)
    return [*cells[:place], "–" if value is None else f"{value:g}", *cells[place:]]


def _place(published: Published, figures: Figures) -> int:
    """Returns the column of the published figures: after ours, or the last."""
    names = figures.names
    return names.index(published.ours) + 1 if published.ours in names else len(names)


class _Pair(NamedTuple):
    """Two settings, the one that is higher here first.

    Fields:
      higher, lower: their names.
      here: their difference here.
      there: that of their published figures, as a ratio.
    """

    higher: str
    lower: str
    here: Comparison
    there: float

    @property
    def verdict(self) -> str:
        """The sign of the published difference, beside that here."""
        same, opposite, none = _VERDICTS
        return none if self.there == 0 else same if self.there > 0 else opposite


def agreement(study: Study, figures: Figures) -> list[Part]:
    """Returns what agrees with the published figures, and what does not; [] without any."""
    published = study.published
    if published is None:
        return []
    source = f"{published.figure} of {published.source}"
    if published.ours not in figures.names:
        return [Text(f"Not compared with {source}: these runs have no {published.ours}.")]
    m = figures.names.index(published.ours)
    pairs = _pairs(published, figures, study.published_pairs, m)
    if not pairs:
        return [Text(f"Not compared with {source}: fewer than two settings have both figures.")]
    clear = [pair for pair in pairs if pair.here.p[m] < SIGNIFICANT]
    in_order = sum(pair.there * pair.here.difference.mean[m] > 0 for pair in pairs)
    text = (
        f"Beside {source}: {in_order} of {len(pairs)} pairs of settings stand in the published "
        f"order by their mean {published.ours}. Pairs that differ here by more than noise "
        f"(p < {SIGNIFICANT}, found as below, corrected for the number of pairs): {len(clear)}."
    )
    if not clear:
        return [
            Text(f"{text} So nothing here agrees with the published figures or contradicts them.")
        ]
    counts = collections.Counter(pair.verdict for pair in clear)
    text += f" Sign of the published difference in these: {_listed(counts)}. {_contrary(clear, m)}"
    table = _pairs_table(published, clear, m)
    if len(clear) <= _MOST_PAIRS:
        return [Text(text), table]
    return [Text(text), Fold(f"The {len(clear)} pairs that differ by more than noise", [table])]


def _listed(counts: collections.Counter[str]) -> str:
    """Returns `the same in 2, the opposite in 1`, in a fixed order."""
    return ", ".join(f"{verdict} in {counts[verdict]}" for verdict in _VERDICTS if counts[verdict])


def _pairs(
    published: Published, figures: Figures, pairs: list[tuple[str, str]], m: int
) -> list[_Pair]:
    found = []
    for (one, other), here in figures.compare_pairs(pairs, m).items():
        there = (published.values[one] - published.values[other]) / 100
        pair = _Pair(one, other, here, there)
        if here.difference.mean[m] < 0:
            pair = _Pair(other, one, here.reversed(), -there)
        found.append(pair)
    return found


def _contrary(clear: list[_Pair], m: int) -> str:
    contrary = [
        f"{pair.higher} is above {pair.lower} here by {points(pair.here.difference.mean[m])}, "
        f"there {points(pair.there)}"
        for pair in clear
        if pair.there <= 0
    ]
    if not contrary:
        return "Nothing that is clear here contradicts them."
    more = len(contrary) - _MOST_PAIRS
    listed = "; ".join(contrary[:_MOST_PAIRS]) + (f"; and {more} more" if more > 0 else "")
    return f"What does not agree: {listed}."


def _pairs_table(published: Published, clear: list[_Pair], m: int) -> Table:
    rows = [
        [
            f"{pair.higher} above {pair.lower}",
            difference_cell(*(column[m] for column in pair.here.difference[:3]), pair.here.p[m]),
            points(pair.there),
            pair.verdict,
        ]
        for pair in clear
    ]
    header = ["pair", f"{published.ours} here", published.title, "sign there"]
    note = (
        "The pairs that differ here by more than noise, in percentage points. How far chance moves "
        "the published figures is not known."
    )
    return Table(header, rows, note=note)
