"""How well anchors cover the objects of a dataset, and which sizes would cover them better.

Everything is NumPy on the host, in pixels of the network's input image. A shape is a
`width, height`. The *centred* IoU of two shapes is the IoU of boxes with a common centre, an upper
bound on the IoU of an object with any grid of anchors.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from rpn_jax.cuts import cheapest_cut
from rpn_jax.data.datasets.report import ASPECT_EDGES, ASPECT_NAMES, SIZE_EDGES, SIZE_NAMES
from rpn_jax.ops.anchors import cell_anchors
from rpn_jax.tables import format_table
from rpn_jax.typing import Array

THRESHOLDS = (0.5, 0.7)
_GROUPS = 256


class Coverage(NamedTuple):
    """How a config's anchors cover n objects in N images; ignore regions are no objects.

    For each object, `best_iou` is its highest IoU with an anchor that training uses, `centred_iou`
    its highest centred IoU with an anchor shape, `positives` the number of anchors that regress to
    it, and `image` the index of its image, 0 to N - 1.
    """

    shapes: Float[np.ndarray, "n 2"]
    image: Integer[np.ndarray, " n"]
    best_iou: Float[np.ndarray, " n"]
    centred_iou: Float[np.ndarray, " n"]
    positives: Integer[np.ndarray, " n"]

    def __str__(self) -> str:
        """Returns three tables: a histogram of the best IoU, means by size and aspect, positives.

        Sizes and aspects without an object are left out.
        """
        return "\n\n".join([self._histogram(), self._breakdown(), self._positives()])

    def _histogram(self) -> str:
        edges = np.linspace(0, 1, 11, dtype=np.float32)  # the IoU's type, for values on an edge
        counts = np.bincount(np.digitize(self.best_iou, edges[1:-1]), minlength=10)
        rows = [
            [f"{low:.1f}-{high:.1f}", str(count), _percent(count / len(self.best_iou))]
            for (low, high), count in zip(itertools.pairwise(edges), counts, strict=True)
        ]
        return format_table([["best IoU", "objects", "%"], *rows])

    def _breakdown(self) -> str:
        width, height = np.asarray(self.shapes, np.float64).T
        of_size = np.digitize(np.sqrt(width * height), SIZE_EDGES)
        of_aspect = np.digitize(width / height, ASPECT_EDGES)
        at_least = [f">= {threshold} %" for threshold in THRESHOLDS]
        rows = [
            ["", "objects", "mean IoU", *at_least, "positives each", "without %"],
            self._row("all objects", np.ones(len(width), bool)),
            ["size sqrt(area)"],
            *(self._row(f"  {name}", of_size == i) for i, name in enumerate(SIZE_NAMES)),
            ["aspect width:height"],
            *(self._row(f"  {name}", of_aspect == i) for i, name in enumerate(ASPECT_NAMES)),
        ]
        return format_table([row for row in rows if row])

    def _row(self, name: str, chosen: Bool[np.ndarray, " n"]) -> list[str]:
        if not chosen.any():
            return []
        positives = self.positives[chosen]
        return [
            name,
            str(chosen.sum()),
            *shares(self.best_iou[chosen]),
            f"{positives.mean():.1f}",
            _percent((positives == 0).mean()),
        ]

    def _positives(self) -> str:
        per_image = self.positives_per_image()
        return (
            "positives each: positive anchors that regress to the object; without: it has none\n"
            f"positive anchors an image, before sampling: mean {per_image.mean():.1f}, "
            f"median {np.median(per_image):g}, least {per_image.min()} "
            f"({len(per_image)} images with objects)"
        )

    def positives_per_image(self) -> Integer[np.ndarray, " m"]:
        """Returns the number of positive anchors of each image that has an object."""
        _, image = np.unique(self.image, return_inverse=True)
        return np.bincount(image, weights=self.positives).astype(np.int64)


def shares(iou: Float[np.ndarray, " n"]) -> list[str]:
    """Returns the mean IoU, and the per cent of objects at or above each of `THRESHOLDS`."""
    return [f"{iou.mean():.3f}", *(_percent((iou >= t).mean()) for t in THRESHOLDS)]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f}"


def centred_iou(a: Float[Array, "M 2"], b: Float[Array, "N 2"]) -> Float[np.ndarray, "M N"]:
    """Returns the centred IoU of every shape of `a` with every shape of `b`; sides are positive."""
    intersection = np.minimum(a[:, None, 0], b[None, :, 0])
    intersection *= np.minimum(a[:, None, 1], b[None, :, 1])
    return intersection / (a.prod(axis=1)[:, None] + b.prod(axis=1)[None, :] - intersection)


def best_centred_iou(
    anchors: Float[Array, "K 2"], objects: Float[Array, "n 2"]
) -> Float[np.ndarray, " n"]:
    """Returns the highest centred IoU of each object with any anchor."""
    best = np.zeros(len(objects))
    for anchor in anchors:
        np.maximum(best, centred_iou(anchor[None], objects)[0], out=best)
    return best


def cluster_sizes(
    objects: Float[np.ndarray, "n 2"], count: int, aspect_ratios: Sequence[float | int]
) -> list[float]:
    """Returns the `count` anchor sizes, rising, that maximise the mean best centred IoU.

    Objects are clustered by the distance 1 - IoU, as in YOLOv2 (arXiv 1612.08242, section 2), with
    two differences. Each size comes with all `aspect_ratios`. Dynamic programming finds the optimal
    clusters, where Lloyd's iteration depends on a random start. This works because an anchor of any
    ratio has a centred IoU with an object that falls with |log(quotient of their sizes)|: an object
    takes the nearest size, so a cluster is a run of objects in order of size.

    Objects are first put into 256 groups of like size and equally many objects. A group stays
    together; the candidate sizes are the groups' middle sizes. Fewer objects than `count` give
    fewer sizes.
    """
    objects = np.asarray(objects, np.float64)
    objects = objects[np.argsort(objects.prod(axis=1), kind="stable")]
    groups = np.array_split(objects, min(_GROUPS, len(objects)))
    candidates = [math.sqrt(group[len(group) // 2].prod()) for group in groups]
    cells = cell_anchors(candidates, aspect_ratios).reshape(len(aspect_ratios), -1, 4)
    gains = [
        np.max([centred_iou(ratio[:, 2:] - ratio[:, :2], group) for ratio in cells], axis=0)
        for group in groups
    ]
    # total[j, c]: sum of the first j groups' IoU with candidate c.
    total = np.cumsum([np.zeros(len(groups)), *(gain.sum(axis=1) for gain in gains)], axis=0)
    # run[i, j]: sum of the IoU of groups i..j-1 with the best candidate for them.
    run = np.array([(total - before[None, :]).max(axis=1) for before in total])
    run[np.tril_indices(len(run))] = -np.inf
    bounds = cheapest_cut(-run[:-1], count)
    return [candidates[(total[j] - total[i]).argmax()] for i, j in itertools.pairwise(bounds)]
