"""What preparation found out about a dataset, split by split."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rpn_jax.data.datasets.source import CheckedExample, Finding
from rpn_jax.tables import format_table
from rpn_jax.text import printable

SIZE_EDGES = (16, 32, 64, 128, 256, 512)
SIZE_NAMES = ("< 16", "16-32", "32-64", "64-128", "128-256", "256-512", ">= 512")
ASPECT_EDGES = (1 / 3, 1 / 2, 1 / 1.4, 1.4, 2, 3)
ASPECT_NAMES = ("< 1:3", "1:3-1:2", "1:2-1:1.4", "1:1.4-1.4:1", "1.4:1-2:1", "2:1-3:1", ">= 3:1")
_SHOWN_FINDINGS = 20
_FINDINGS = ("clipped", "dropped", "left_out", "masks_left_out", "skipped", "noted")


@dataclasses.dataclass
class SplitReport:
    """Counts of one split; histograms and classes count objects, not ignore regions.

    A size is the square root of a box's area in pixels of the original image, an aspect is its
    width over its height. `left_out` are annotations that could not be used, `skipped` are images
    that are not in the prepared data at all; of what is `noted` a person should know. `masks`
    counts the objects with a mask; of those that are `masks_left_out` the objects are there.
    """

    images: int
    images_without_objects: int
    objects: int
    ignored: int
    per_class: list[int]
    sizes: list[int]
    aspects: list[int]
    clipped: list[Finding]
    dropped: list[Finding]
    skipped: list[Finding]
    noted: list[Finding] = dataclasses.field(default_factory=list)
    left_out: list[Finding] = dataclasses.field(default_factory=list)
    masks: int = 0
    masks_left_out: list[Finding] = dataclasses.field(default_factory=list)


def tally(
    checked: Sequence[CheckedExample], num_classes: int, skipped: Sequence[Finding]
) -> SplitReport:
    """Returns the counts of a split's examples."""
    kept = [c.example for c in checked]
    boxes = np.concatenate([np.zeros((0, 4))] + [e.boxes for e in kept])
    labels = np.concatenate([np.zeros(0, np.int64)] + [e.labels for e in kept])
    ignore = np.concatenate([np.zeros(0, bool)] + [e.ignore for e in kept])
    width, height = (boxes[~ignore, 2:] - boxes[~ignore, :2]).T
    return SplitReport(
        images=len(kept),
        images_without_objects=sum(bool(e.ignore.all()) for e in kept),
        objects=int((~ignore).sum()),
        ignored=int(ignore.sum()),
        per_class=np.bincount(labels[~ignore], minlength=num_classes).tolist(),
        sizes=_histogram(np.sqrt(width * height), SIZE_EDGES),
        aspects=_histogram(width / height, ASPECT_EDGES),
        clipped=[finding for c in checked for finding in c.clipped],
        dropped=[finding for c in checked for finding in c.dropped],
        skipped=list(skipped),
        noted=[finding for c in checked for finding in c.noted],
        masks=sum(
            bool(mask) and not is_ignored
            for e in kept
            for mask, is_ignored in zip(e.masks or (), e.ignore, strict=False)
        ),
        masks_left_out=[finding for c in checked for finding in c.masks_left_out],
    )


def _histogram(values: np.ndarray, edges: Sequence[int | float]) -> list[int]:
    return np.bincount(np.digitize(values, edges), minlength=len(edges) + 1).tolist()


@dataclasses.dataclass
class PreparationReport:
    """The whole of it; `str()` is a table to read, `from_dict(asdict())` gives it back.

    `directory` is where the data lies now; `already_prepared` is True where nothing had to be done
    and the stored report is shown.
    """

    name: str
    source: str | None
    class_names: list[str]
    splits: dict[str, SplitReport]
    directory: str = ""
    already_prepared: bool = False

    def asdict(self) -> dict:
        """Returns the report as JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: dict) -> "PreparationReport":
        """Returns the report that `asdict` was called on."""
        splits = {}
        for split, fields in stored["splits"].items():
            findings = {
                key: [Finding(*finding) for finding in fields.get(key, [])] for key in _FINDINGS
            }
            splits[split] = SplitReport(**{**fields, **findings})
        return cls(**{**stored, "splits": splits})

    def __str__(self) -> str:
        origin = f" from {self.source}" if self.source else ""
        state = "already prepared" if self.already_prepared else "prepared"
        title = f"{printable(f'{self.name} {state}{origin}')}\nin {printable(self.directory)}"
        reports = list(self.splits.values())

        def rows(names: Sequence[str], field: str) -> list[tuple]:
            columns = [getattr(r, field) for r in reports]
            return [(f"  {name}", *row) for name, *row in zip(names, *columns, strict=True)]

        def single(title: str, field: str) -> tuple:
            values = [getattr(r, field) for r in reports]
            return (title, *(v if isinstance(v, int) else len(v) for v in values))

        table = [
            ("", *self.splits),
            single("images", "images"),
            single("  without an object", "images_without_objects"),
            single("  skipped", "skipped"),
            single("objects", "objects"),
            *([single("  with a mask", "masks")] if any(r.masks for r in reports) else []),
            single("ignore regions", "ignored"),
            single("boxes clipped", "clipped"),
            single("boxes dropped", "dropped"),
            single("annotations left out", "left_out"),
            ("objects of class",),
            *rows(self.class_names, "per_class"),
            ("objects of size sqrt(area), pixels",),
            *rows(SIZE_NAMES, "sizes"),
            ("objects of aspect width:height",),
            *rows(ASPECT_NAMES, "aspects"),
        ]
        return "\n".join([title, "", format_table(table), *self._findings()])

    def _findings(self) -> list[str]:
        lines = []
        for kind in _FINDINGS:
            # A file that several splits name is listed once.
            findings = dict.fromkeys(f for r in self.splits.values() for f in getattr(r, kind))
            if findings:
                lines += ["", f"{kind.replace('_', ' ')}:"]
                lines += [
                    printable(f"  {file}: {what}")
                    for file, what in list(findings)[:_SHOWN_FINDINGS]
                ]
                rest = len(findings) - _SHOWN_FINDINGS
                if rest > 0:
                    lines.append(f"  … and {rest} more, all in {self.directory}/metadata.json")
        return lines
