"""Evaluation of a saved network on a split."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.evaluation.coco import coco_recall
from rpn_jax.evaluation.figures import ARRAYS, FILE, Figures
from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.evaluation.objects import (
    ObjectRanks,
    concatenate,
    from_lists,
    image_objects,
    to_lists,
)
from rpn_jax.evaluation.recall import RecallMeasurement, RecallResult
from rpn_jax.files import writing
from rpn_jax.runs.fingerprint import tell_changed
from rpn_jax.runs.processes import gather, is_first, together
from rpn_jax.tables import format_table
from rpn_jax.trained.load import check_proposes, load_trained
from rpn_jax.training.evaluate import (
    ImageResult,
    detector_results,
    evaluate,
    measures_masks,
    over_processes,
)
from rpn_jax.training.pictures import draw_first
from rpn_jax.training.splits import open_split, with_proposals
from rpn_jax.visualize.plots import plot_precision, plot_recall_to_iou

IMAGES_AT_ONCE = 50  # pycocotools' dicts of a whole split would fill the memory


def evaluate_trained(
    config: ConfigDict,
    place: pathlib.Path,
    split: str | None = None,
    step: int | str | None = None,
    out: pathlib.Path | None = None,
    without: Sequence[str] = (),
) -> str:
    """Measures a trained network on a split; writes JSON, plot and pictures; returns the table.

    The files go to the folder `out`, by default `evaluation/SPLIT` in the run's folder. For `place`
    and `step` see `load_trained`, for `without` (the paper's Table 2) `RPN.assess`.
    """
    start = time.monotonic()
    split = split or config.data.eval_split
    with together():
        if without:
            check_proposes(config, place)
        dataset = open_split(config, split, needs_masks=False)
        dataset = with_proposals(config, dataset, "eval")
        of_masks = measures_masks(config, dataset)
    if is_first() and place.is_dir():
        tell_changed(place, dataset, config)
    detector, variables, step = load_trained(config, place, step)
    name = "-without-".join([split, *without])
    folder = out or place / "evaluation" / name
    title = " without ".join([place.name if step is None else f"step {step}", *without])
    results = detector_results(config, detector, variables, dataset, without)
    results = draw_first(config, detector, results, folder / "pictures")

    peer = PeerRecall(config)
    objects = ObjectCollector(max(config.evaluation.top_ns))
    watched = objects.watch(peer.watch(results))
    figures, losses = evaluate(config, watched, of_masks=of_masks)
    peer_figures = peer.result()
    ranks = objects.result()
    content = {
        "dataset": config.data.dataset,
        "split": split,
        "without": list(without),
        "step": step,
        "seconds": round(time.monotonic() - start, 1),
        **figures.to_json(),
        "pycocotools": peer_figures.scalars,
        "losses": losses,
    }
    recall = RecallResult.from_json(figures.details)
    if is_first():
        _plot(figures, title, folder)
        # All files are complete before one is renamed: a report never mixes two evaluations.
        with contextlib.ExitStack() as files:
            if figures.arrays:
                of_arrays = files.enter_context(writing(folder / ARRAYS))
                np.savez_compressed(of_arrays, **figures.arrays)
            of_objects = files.enter_context(writing(folder / "objects.npz"))
            np.savez_compressed(
                of_objects,
                **ranks._asdict(),
                class_names=np.array(dataset.class_names),
                iou_thresholds=IOU_THRESHOLDS,
            )
            of_figures = files.enter_context(writing(folder / FILE))
            of_figures.write(json.dumps(content, indent=2).encode())
    table = f"{figures.table}\n{_beside(recall.figures(), peer_figures)}"
    return f"{config.data.dataset} {split}, {title}\n{table}"


def _plot(figures: Figures, title: str, folder: pathlib.Path) -> None:
    recall, of_masks = RecallResult.from_json(figures.details), figures.details.get("masks", {})
    for suffix in (".png", ".svg"):
        plot_recall_to_iou({title: recall}, folder / f"recall_to_iou{suffix}")
        if precision := figures.details.get("precision"):
            plot_precision(precision, folder / f"precision{suffix}", title=title)
        if precision := of_masks.get("precision"):
            plot_precision(precision, folder / f"masks_precision{suffix}", title=f"{title}, masks")


class ObjectCollector:
    """Collects, image by image, the proposal that found each object."""

    def __init__(self, top_n: int):
        self._top_n = top_n
        self._images: dict[int, ObjectRanks] = {}

    def watch(self, results: Iterator[ImageResult]) -> Iterator[ImageResult]:
        """Passes the results on and collects the ranks of their objects."""
        for result in results:
            self._images[result.index] = image_objects(
                result.index, result.proposals, result.class_index, self._top_n
            )
            yield result

    def result(self) -> ObjectRanks:
        """Returns the objects of all processes' images, in the order of the split."""
        share = [[index, to_lists(image)] for index, image in self._images.items()]
        images = {index: image for images in gather(share) for index, image in images}
        return concatenate([from_lists(images[index]) for index in sorted(images)])


class PeerRecall:
    """Counts the same recall by pycocotools, image by image."""

    def __init__(self, config: ConfigDict):
        self._config = config
        self._measurement = RecallMeasurement(config.evaluation.top_ns)
        self._waiting = []

    def watch(self, results):
        """Passes the results on and counts them."""
        for result in results:
            self._waiting.append(result.proposals)
            if len(self._waiting) == IMAGES_AT_ONCE:
                self._count()
            yield result

    def _count(self):
        sums = coco_recall(self._waiting, self._config.evaluation.top_ns)
        self._measurement.merge(sums.to_lists())
        self._waiting = []

    def result(self) -> Figures:
        """Returns the figures over all processes."""
        if self._waiting:
            self._count()
        empty = RecallMeasurement(self._config.evaluation.top_ns)
        return over_processes(self._measurement, empty).result()


def _beside(ours: Figures, theirs: Figures) -> str:
    pairs = zip(ours.scalars.items(), theirs.scalars.values(), strict=True)
    rows = [
        (name, f"{100 * value:.3f}", f"{100 * peer:.3f}")
        for (name, value), peer in pairs
        if "_" not in name
    ]
    return format_table([("", "ours", "pycocotools"), *rows], names=0)
