"""Recall of proposals at IoU thresholds, and average recall (AR).

Boxes, areas and counts are those of the *original* image, and everything is NumPy on the host.
Each image gives integer counts, `RecallSums`, that add up over images, batches and hosts in any
order; `RecallSums.result` turns them into ratios once, at the end.

The top N find an object at threshold t if COCO's matching gives it one of the N best-scored
proposals of its image. By falling score, each proposal takes the free object with the highest IoU,
provided that IoU >= t (on equal IoU the later object). The matching is one to one. pycocotools with
`useCats=0` counts the same; `evaluation.coco` calls it as a check.

Relation to the paper: Section 4 and Figure 4 there plot the recall-to-IoU of the top 300, 1000 and
2000 proposals with the protocol of Hosang et al. (arXiv 1502.05082). They too match one to one, but
by falling IoU instead of falling score. The two differ only where one proposal reaches the
threshold with two objects, that is, in crowds. Hosang's AR integrates recall over IoU 0.5 to 1.
COCO's AR, used here, is the mean over the ten thresholds 0.50, 0.55 ... 0.95, and thus a little
higher for the same curve.

Axes: S  size ranges (`SIZE_RANGES`)    T  IoU thresholds (`IOU_THRESHOLDS`)    N  entries of top_ns
      P  proposals of an image          G  annotated boxes of an image
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.evaluation.figures import Figures, headline_recall
from rpn_jax.evaluation.matching import IOU_THRESHOLDS, match_ranks, pairwise_iou
from rpn_jax.tables import format_table
from rpn_jax.typing import Array

TOP_NS = (10, 50, 100, 300, 1000)
# Smallest and largest area in original pixels, both inclusive: an object of exactly 32² is small
# and medium. The upper end of "all" is COCO's too.
SIZE_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


class ImageProposals(NamedTuple):
    """The proposals and annotations of one image, in original pixels.

    Proposals come in any order. `gt_ignore` is True for difficult and crowd boxes, which are not
    objects to be found. `gt_areas` are the annotated areas (of the masks in COCO), not the boxes'.
    """

    image_id: int
    boxes: Float[Array, "P 4"]
    scores: Float[Array, " P"]
    gt_boxes: Float[Array, "G 4"]
    gt_ignore: Bool[Array, " G"]
    gt_areas: Float[Array, " G"]


@dataclasses.dataclass(frozen=True, eq=False)
class RecallSums:
    """Counts of found objects, to be added up: `sums += image_recall(image)`.

    `matched[s, t, n]` is the number of objects of size range s that the top `top_ns[n]` find at
    threshold t; `total[s]` the number of objects of that range; `images` the number of images;
    `proposals` the number of their proposals, at most max(top_ns) per image.
    """

    top_ns: tuple[int, ...]
    matched: Int[np.ndarray, "S T N"]
    total: Int[np.ndarray, " S"]
    images: int
    proposals: int

    @classmethod
    def empty(cls, top_ns: Sequence[int] = TOP_NS) -> "RecallSums":
        """Returns sums of zero, the start of a summation."""
        S, T = len(SIZE_RANGES), len(IOU_THRESHOLDS)
        zeros = np.zeros((S, T, len(top_ns)), np.int64)
        return cls(tuple(top_ns), zeros, np.zeros(S, np.int64), 0, 0)

    def __add__(self, other: "RecallSums") -> "RecallSums":
        """Returns the sums over the images of both. Raises ValueError if their top_ns differ."""
        if self.top_ns != other.top_ns:
            raise ValueError(f"cannot add recall of the top {self.top_ns} and {other.top_ns}")
        return RecallSums(
            self.top_ns,
            self.matched + other.matched,
            self.total + other.total,
            self.images + other.images,
            self.proposals + other.proposals,
        )

    def to_lists(self) -> dict[str, object]:
        """Returns the counts as JSON types, to be added up over processes."""
        return {
            "matched": self.matched.tolist(),
            "total": self.total.tolist(),
            "images": int(self.images),
            "proposals": int(self.proposals),
        }

    @classmethod
    def from_lists(
        cls, counts: Mapping[str, object], top_ns: Sequence[int] = TOP_NS
    ) -> "RecallSums":
        """Returns the sums that `to_lists` turned into lists."""
        return cls(
            tuple(top_ns),
            np.array(counts["matched"], np.int64),
            np.array(counts["total"], np.int64),
            counts["images"],
            counts["proposals"],
        )

    def result(self) -> "RecallResult":
        """Returns the ratios; NaN for a size range without any object."""
        total = np.where(self.total > 0, self.total, np.nan)
        return RecallResult(
            self.top_ns,
            self.matched / total[:, None, None],
            dict(zip(SIZE_RANGES, self.total.tolist(), strict=True)),
            self.images,
            self.proposals,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RecallResult:
    """Recall of every size range at every threshold for every top N; `str()` gives a table."""

    top_ns: tuple[int, ...]
    recall: Float[np.ndarray, "S T N"]
    objects: dict[str, int]
    images: int
    proposals: int

    def curve(self, top_n: int, size: str = "all") -> Float[np.ndarray, " T"]:
        """Returns the recall of the top `top_n` at each of `IOU_THRESHOLDS`."""
        return self.recall[list(SIZE_RANGES).index(size), :, self.top_ns.index(top_n)]

    def average_recall(self, top_n: int, size: str = "all") -> float:
        """Returns AR@top_n: the mean of the curve; NaN if there is no object of that size."""
        return float(self.curve(top_n, size).mean())

    def scalars(self) -> dict[str, float]:
        """Returns `AR@N`, `AR_small@N` etc. by name, to be logged; NaN ones are left out."""
        named = {
            f"AR{'' if size == 'all' else '_' + size}@{n}": self.average_recall(n, size)
            for size in SIZE_RANGES
            for n in self.top_ns
        }
        return {name: value for name, value in named.items() if not np.isnan(value)}

    def figures(self) -> Figures:
        """Returns the figures of a proposal network."""
        return Figures(headline_recall(self.top_ns), self.scalars(), str(self), self.to_json())

    def to_json(self) -> dict:
        """Returns the recall as JSON types; null where there was no object to find."""
        nulled = np.where(np.isnan(self.recall), None, self.recall)
        return {
            "images": self.images,
            "proposals": self.proposals,
            "objects": dict(self.objects),
            "iou_thresholds": [round(t, 2) for t in IOU_THRESHOLDS.tolist()],
            "recall": {
                size: {str(n): nulled[s, :, i].tolist() for i, n in enumerate(self.top_ns)}
                for s, size in enumerate(SIZE_RANGES)
            },
        }

    @classmethod
    def from_json(cls, figures: Mapping) -> "RecallResult":
        """Returns the result that `to_json` wrote, e.g. to plot several runs together."""
        by_size = [figures["recall"][size] for size in SIZE_RANGES]
        recall = np.array([list(by_top_n.values()) for by_top_n in by_size], np.float64)
        return cls(
            tuple(int(n) for n in by_size[0]),
            recall.transpose(0, 2, 1),
            dict(figures["objects"]),
            figures["images"],
            figures["proposals"],
        )

    def __str__(self) -> str:
        """Returns the table that `evaluate` prints, in per cent."""
        per_image = self.proposals / max(self.images, 1)
        heading = (
            f"{self.images} images, {self.objects['all']} objects "
            f"({', '.join(f'{self.objects[size]} {size}' for size in list(SIZE_RANGES)[1:])}), "
            f"{per_image:.0f} proposals per image\n"
            "recall in % at each IoU threshold, their mean AR, and AR by object size"
        )
        columns = ["top N", *(f"{t:.2f}" for t in IOU_THRESHOLDS), "AR", *list(SIZE_RANGES)[1:]]
        rows = [
            [
                str(n),
                *map(_percent, self.curve(n)),
                *(_percent(self.average_recall(n, size)) for size in SIZE_RANGES),
            ]
            for n in self.top_ns
        ]
        return f"{heading}\n{format_table([columns, *rows], names=0)}"


def _percent(ratio: float) -> str:
    return "-" if np.isnan(ratio) else f"{100 * ratio:.1f}"


def image_recall(image: ImageProposals, top_ns: Sequence[int] = TOP_NS) -> RecallSums:
    """Returns the counts of one image.

    Each size range is matched for itself, among its own objects only. That is COCO's rule too,
    though it reads differently there: COCO also lets proposals take ignored objects (difficult,
    crowd, out of range), but only those that no object wanted, so it changes no object's match.
    """
    order = np.argsort(-image.scores, kind="stable")[: max(top_ns)]
    areas = np.asarray(image.gt_areas, np.float64)
    ranges = np.array(list(SIZE_RANGES.values()))
    in_range = (areas >= ranges[:, :1]) & (areas <= ranges[:, 1:])
    objects = in_range & ~np.asarray(image.gt_ignore)
    ranks = match_ranks(pairwise_iou(image.boxes[order], image.gt_boxes), objects)
    found = ranks[..., None] < np.asarray(top_ns)
    return RecallSums(
        tuple(top_ns), found.sum(axis=2), objects.sum(axis=1), images=1, proposals=len(order)
    )


class RecallMeasurement:
    """Average recall of a split: see `figures.Measurement`."""

    def __init__(self, top_ns: Sequence[int] = TOP_NS):
        self._sums = RecallSums.empty(top_ns)

    def add(self, image: ImageProposals) -> None:
        """Adds the proposals of one image."""
        self._sums += image_recall(image, self._sums.top_ns)

    def share(self) -> dict[str, object]:
        """Returns the counts as JSON types."""
        return self._sums.to_lists()

    def merge(self, share: Mapping[str, object]) -> None:
        """Adds the counts of another process."""
        self._sums += RecallSums.from_lists(share, self._sums.top_ns)

    def result(self) -> Figures:
        """Returns the figures of all that was added."""
        return self._sums.result().figures()
