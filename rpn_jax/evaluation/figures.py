"""Figures: the few numbers that a model is judged by, one of them the headline.

The headline is average recall for a proposal network, average precision for a detector.
Validations, sweeps and reports read `Figures`, whatever the headline is.
"""

import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

FILE = "figures.json"
ARRAYS = "detections.npz"
_OF_PART = "_AP", "_AP50", "_AP75"  # with the part's name before, such as "masks"
_OLD_FILE = "recall.json"  # of version 0.1, which measured average recall alone


class Figures(NamedTuple):
    """The measured figures of a split.

    Fields:
      headline: name of the number that stands for the model; higher is better.
      scalars: every number by name, ratios from 0 to 1. A name with "_" stands for a subset of the
        objects, such as the small ones.
      table: all figures as text, to be printed.
      details: further content of the file, as JSON types.
      arrays: what is too long for it, as arrays of a file `ARRAYS` beside it.
    """

    headline: str
    scalars: dict[str, float]
    table: str
    details: dict[str, Any]
    arrays: Mapping[str, np.ndarray] = types.MappingProxyType({})

    def line(self) -> str:
        """Returns the numbers of all objects in one line."""
        return in_line(self.scalars)

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as JSON types, for `read_figures`."""
        return {"headline": self.headline, "scalars": self.scalars, **self.details}


@runtime_checkable
class Measurement(Protocol):
    """Counts that add up over images and processes, in any order."""

    def add(self, image: Any) -> None:
        """Adds the found and the annotated boxes of one image."""
        ...

    def share(self) -> dict[str, Any]:
        """Returns the counts as JSON types, for another process."""
        ...

    def merge(self, share: dict[str, Any]) -> None:
        """Adds the counts of another process."""
        ...

    def result(self) -> Figures:
        """Returns the figures of all added images."""
        ...


class Measurements:
    """Several measurements of the same images; the last has the headline."""

    def __init__(self, parts: dict[str, Measurement]):
        """`parts` are named by the attribute of a result that each of them takes."""
        self._parts = parts

    def add(self, result: Any) -> None:
        """Adds one image's result to every part."""
        for name, part in self._parts.items():
            part.add(getattr(result, name))

    def share(self) -> dict[str, Any]:
        """Returns the counts of all parts as JSON types."""
        return {name: part.share() for name, part in self._parts.items()}

    def merge(self, share: dict[str, Any]) -> None:
        """Adds the counts of another process."""
        for name, part in self._parts.items():
            part.merge(share[name])

    def result(self) -> Figures:
        """Returns the figures of all parts.

        The scalars and arrays of all parts but the last get their part's name as a prefix.
        """
        *others, (_, last) = [(name, part.result()) for name, part in self._parts.items()]
        scalars, details, tables = dict(last.scalars), dict(last.details), [last.table]
        arrays = dict(last.arrays)
        for name, figures in others:
            scalars |= {f"{name}_{key}": value for key, value in figures.scalars.items()}
            arrays |= {f"{name}_{key}": array for key, array in figures.arrays.items()}
            details |= figures.details
            tables.append(f"{name}:\n{figures.table}")
        table = "\n\n".join(tables)
        return last._replace(scalars=scalars, table=table, details=details, arrays=arrays)


def of_all(scalars: dict[str, float]) -> dict[str, float]:
    """Returns the numbers that cover all objects, without those of subsets."""
    return {name: value for name, value in scalars.items() if "_" not in name}


def in_line(scalars: Mapping[str, float]) -> str:
    """Returns the numbers that cover all objects in one line, and the AP of each part.

    >>> in_line({"AP": 0.5, "AP50": 0.75, "AP_small": 0.25, "masks_AP": 0.5, "proposals_AR@10": 1})
    'AP 0.500  AP50 0.750  masks_AP 0.500'
    """
    of_parts = {name: value for name, value in scalars.items() if name.endswith(_OF_PART)}
    shown = of_all(dict(scalars)) | of_parts
    return "  ".join(f"{name} {value:.3f}" for name, value in shown.items())


def around_headline(scalars: Mapping[str, float], headline: str | None, count: int) -> list[str]:
    """Returns the names of at most `count` numbers of all objects, the headline among them.

    They are its neighbours to both sides, or the last ones if there is no such headline. Behind
    them come those that other parts of the model have by the name of the headline.

    >>> around_headline({"AR@10": 0.1, "AR@100": 0.3, "AR@300": 0.4, "AR@1000": 0.5}, "AR@300", 3)
    ['AR@100', 'AR@300', 'AR@1000']
    >>> around_headline({"AP": 0.3, "AP50": 0.5, "AP75": 0.4, "AR@1": 0.2}, "AP", 3)
    ['AP', 'AP50', 'AP75']
    >>> around_headline({"AP": 0.3, "AP50": 0.5, "masks_AP": 0.3, "masks_AP_small": 0.1}, "AP", 1)
    ['AP', 'masks_AP']
    """
    names = list(of_all(dict(scalars)))
    middle = names.index(headline) if headline in names else len(names)
    start = max(0, min(middle - count // 2, len(names) - count))
    of_parts = [name for name in scalars if name.endswith(f"_{headline}")]
    return names[start : start + count] + of_parts


def headline_recall(top_ns: Sequence[int]) -> str:
    """Returns the name of a proposal network's headline, an average recall.

    That is AR@300, because the paper hands 300 proposals to its detector, or else AR at the largest
    number below 300.
    """
    return f"AR@{max([n for n in top_ns if n <= 300] or top_ns[:1])}"


def headline_of(scalars: Mapping[str, float]) -> str | None:
    """Returns the name of the headline among a model's numbers; None if there is none.

    >>> headline_of({"AP": 0.5, "AP50": 0.75, "proposals_AR@300": 0.4, "AR@100": 0.4})
    'AP'
    >>> headline_of({"loss": 0.1, "AR@10": 0.2, "AR@300": 0.4, "AR@1000": 0.5})
    'AR@300'
    """
    if "AP" in scalars:
        return "AP"
    top_ns = [int(name[3:]) for name in of_all(dict(scalars)) if name.startswith("AR@")]
    return headline_recall(sorted(top_ns)) if top_ns else None


def read_figures(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the JSON that `evaluate` left in a folder, {} where there is none.

    Raises:
        OSError, ValueError: it cannot be read, or is damaged.
    """
    path = folder / FILE
    if path.is_file():
        return _checked(_load(path))
    path = folder / _OLD_FILE
    if not path.is_file():
        return {}
    old = _load(path)
    scalars = _named_numbers(old.pop("average_recall", None))
    top_ns = [int(name.removeprefix("AR@")) for name in of_all(scalars)]
    headline = headline_recall(sorted(top_ns)) if top_ns else "AR"
    return _checked({"headline": headline, "scalars": scalars, **old})


def _load(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(content, dict):
        raise ValueError("no object")
    return content


def _checked(figures: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures; raises a `ValueError` if one that every reader uses is missing."""
    _named_numbers(figures.get("scalars"))
    if not isinstance(figures.get("step"), int | None):
        raise ValueError("no step")
    return figures


def _named_numbers(scalars: Any) -> dict[str, float]:
    if not isinstance(scalars, dict):
        raise ValueError("no scalars")
    if not all(isinstance(value, int | float) for value in scalars.values()):
        raise ValueError("a scalar that is no number")
    return scalars
