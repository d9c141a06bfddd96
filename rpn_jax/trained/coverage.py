"""The command `anchors`: how the config's anchors cover the objects of a split."""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict, FrozenConfigDict

from rpn_jax.data.datasets import Dataset
from rpn_jax.data.loader import load_example
from rpn_jax.data.plan import Buckets
from rpn_jax.data.transforms import rescale, resized_hw, whole_view
from rpn_jax.detectors.targets import assign_targets, takes_part_in_training
from rpn_jax.errors import UserError
from rpn_jax.evaluation.coverage import (
    THRESHOLDS,
    Coverage,
    best_centred_iou,
    cluster_sizes,
    shares,
)
from rpn_jax.files import check_out
from rpn_jax.models.rcnn import RCNN
from rpn_jax.ops.anchors import inside_image
from rpn_jax.ops.boxes import pairwise_iou
from rpn_jax.ops.matching import Label
from rpn_jax.progress import progress_bar
from rpn_jax.runs.config import sizes_per_level
from rpn_jax.tables import format_table
from rpn_jax.trained.describe import format_stride
from rpn_jax.trained.windows import check_anchors
from rpn_jax.training.build import build_network
from rpn_jax.training.evaluate import buckets
from rpn_jax.training.splits import open_split, with_known_classes
from rpn_jax.training.stages import anchors_at_origin, proposal_stage
from rpn_jax.typing import GroundTruth
from rpn_jax.visualize.boxes import draw_anchors, write_image
from rpn_jax.visualize.plots import plot_coverage


class ResizedImage(NamedTuple):
    """The annotations of an image at the network's input size, without the pixels."""

    canvas_hw: tuple[int, int]
    image_hw: Float[np.ndarray, "2"]
    boxes: Float[np.ndarray, "n 4"]
    ignore: Bool[np.ndarray, " n"]


def report_anchors(config: ConfigDict, out: pathlib.Path, split: str | None = None) -> str:
    """Writes pictures of the config's anchors into the folder `out`; returns tables about them.

    `split` is the training split by default. Images are not mirrored.

    Raises:
        UserError: the dataset is not prepared, the split does not exist or has no object, or the
            fields of `config.rpn.anchors` are impossible.
    """
    check_anchors(config)
    split = split or config.data.train_split
    dataset = open_split(config, split)
    check_out(out, folder=True)
    config = with_known_classes(config)
    network = build_network(config)
    canvases = buckets(config, dataset)
    images = read_images(config, dataset, canvases)
    num_objects = sum(int((~image.ignore).sum()) for image in images)
    num_ignored = sum(int(image.ignore.sum()) for image in images)
    if not num_objects:
        raise UserError(
            f"{dataset.name}: split {split!r} has no objects ({len(images)} images, {num_ignored} "
            "ignore regions), so that there is nothing to cover; name another --split"
        )
    coverage = measure_coverage(config, network, images)
    other = with_suggested_sizes(config, coverage)
    other_coverage = measure_coverage(other, network, images)

    write_image(out / "anchors.png", draw_position(config, network, dataset, images))
    plot_coverage(
        coverage.shapes,
        {"config": cell_shapes(config), "suggested": cell_shapes(other)},
        {"config": coverage.best_iou, "suggested": other_coverage.best_iou},
        out / "coverage.png",
    )
    data = config.data
    return "\n\n".join(
        [
            f"{dataset.name} {split}: {len(images)} images, {num_objects} objects, {num_ignored} "
            f"ignore regions (left out)\nall in pixels of the resized image: its shorter side "
            f"{data.shorter_side}, its longer at most {data.longer_side}",
            describe_anchors(config, network, canvases),
            f"Each object's best IoU with an anchor that training uses\n\n{coverage}",
            describe_suggestion(config, coverage, other, other_coverage),
            f"wrote {out / 'anchors.png'} and {out / 'coverage.png'}",
        ]
    )


def cell_shapes(config: ConfigDict) -> Float[np.ndarray, "_ 2"]:
    """Returns the widths and heights of the config's anchors, all levels in one array."""
    cells = np.concatenate(anchors_at_origin(config))
    return cells[:, 2:] - cells[:, :2]


def read_images(config: ConfigDict, dataset: Dataset, canvases: Buckets) -> list[ResizedImage]:
    """Returns the annotations of every image in pixels of the network's input."""
    images = []
    bar = progress_bar(dataset, description="reading", unit="image", leave=False)
    for record, bucket in zip(bar, canvases.of_example.tolist(), strict=True):
        new_hw = resized_hw(
            record.height,
            record.width,
            shorter_side=config.data.shorter_side,
            longer_side=config.data.longer_side,
        )
        boxes = rescale(record.boxes, (record.height, record.width), new_hw, np.float32)
        images.append(
            ResizedImage(canvases.canvases[bucket], np.float32(new_hw), boxes, record.ignore)
        )
    return images


def measure_coverage(config: ConfigDict, network: RCNN, images: Sequence[ResizedImage]) -> Coverage:
    """Matches the anchors of every image with its objects, as a training step does."""
    fields = FrozenConfigDict(config.rpn.targets)
    anchors = {
        canvas: jnp.concatenate(proposal_stage(config).anchors(network, *canvas))
        for canvas in sorted({image.canvas_hw for image in images})
    }
    best_iou, positives = [], []
    for image in progress_bar(images, description="matching", unit="image", leave=False):
        is_object = ~image.ignore
        iou, labels, gt_index = map(
            np.asarray,
            _match_image(
                anchors[image.canvas_hw], _ground_truth(image), image.image_hw, fields=fields
            ),
        )
        counts = np.bincount(gt_index[labels == Label.POSITIVE], minlength=len(iou))
        best_iou.append(iou[: len(is_object)][is_object])
        positives.append(counts[: len(is_object)][is_object])
    boxes = np.concatenate([image.boxes[~image.ignore] for image in images])
    shapes = boxes[:, 2:] - boxes[:, :2]
    return Coverage(
        shapes=shapes,
        image=np.repeat(np.arange(len(images)), [len(iou) for iou in best_iou]),
        best_iou=np.concatenate(best_iou),
        centred_iou=best_centred_iou(cell_shapes(config), shapes),
        positives=np.concatenate(positives),
    )


@functools.partial(jax.jit, static_argnames="fields")
def _match_image(anchors, ground_truth: GroundTruth, image_hw, *, fields: FrozenConfigDict):
    """Returns the best IoU of each slot (G,), and each anchor's label and object (A,)."""
    # The sampling after the matching is not used, so XLA does not compute it.
    matches = assign_targets(jax.random.key(0), anchors, ground_truth, image_hw, **fields).matches
    takes_part = takes_part_in_training(
        anchors, image_hw, fields.drop_straddling, fields.straddle_tolerance
    )
    iou = jnp.where(takes_part[:, None], pairwise_iou(anchors, ground_truth.boxes), 0)
    return iou.max(axis=0), matches.labels, matches.gt_index


def _ground_truth(image: ResizedImage) -> GroundTruth:
    """Returns the boxes padded to a power of two, because each number of slots is compiled."""
    count = len(image.boxes)
    slots = max(8, 1 << (count - 1).bit_length())
    boxes = np.zeros((slots, 4), np.float32)
    boxes[:count] = image.boxes
    ignore = np.zeros(slots, bool)
    ignore[:count] = image.ignore
    return GroundTruth(boxes, np.arange(slots) < count, ignore)


def with_suggested_sizes(config: ConfigDict, coverage: Coverage) -> ConfigDict:
    """Returns the config with as many sizes that fit the objects, or fewer if some are equal.

    Levels keep their number of sizes. The smallest sizes go to the finest level and so on; the
    largest size is repeated if there are too few.
    """
    levels = sizes_per_level(config)
    count = sum(map(len, levels))
    sizes = cluster_sizes(coverage.shapes, count, config.rpn.anchors.aspect_ratios)
    sizes = sorted({float(f"{size:.3g}") for size in sizes})
    other = config.copy_and_resolve_references()
    if len(levels) > 1:
        sizes += sizes[-1:] * (count - len(sizes))
        sizes = zip(*[iter(sizes)] * len(levels[0]), strict=True)
    other.rpn.anchors.sizes = tuple(sizes)
    return other


def draw_position(
    config: ConfigDict,
    network: RCNN,
    dataset: Dataset,
    images: Sequence[ResizedImage],
) -> np.ndarray:
    """Returns the first image with objects, and on it each level's anchors nearest its middle."""
    index = next(i for i, image in enumerate(images) if not image.ignore.all())
    record = dataset[index]
    sides = config.data.shorter_side, config.data.longer_side
    view = whole_view(record.height, record.width, shorter_side=sides[0], longer_side=sides[1])
    pixels, _ = load_example(record, view)
    middle = images[index].image_hw[::-1] / 2
    chosen = []
    for level in proposal_stage(config).anchors(network, *images[index].canvas_hw):
        anchors = np.asarray(level).reshape(-1, network.rpn.num_anchors, 4)
        centres = (anchors[:, 0, :2] + anchors[:, 0, 2:]) / 2
        chosen.append(anchors[np.square(centres - middle[None, :]).sum(axis=1).argmin()])
    levels = " of each level" if len(chosen) > 1 else ""
    anchors = np.concatenate(chosen)
    return draw_anchors(
        pixels, anchors, title=f"The {len(anchors)} anchors of one position{levels}"
    )


def describe_anchors(config: ConfigDict, network: RCNN, canvases: Buckets) -> str:
    """Returns a table of each canvas's numbers of anchors: all, and those across its border."""
    fields = config.rpn.anchors
    rows = [["canvas", "images", "stride", "grid", "anchors", "straddling"]]
    for bucket, (height, width) in enumerate(canvases.canvases):
        images = int((canvases.of_example == bucket).sum())
        grids = network.grid_hw(height, width)
        levels = proposal_stage(config).anchors(network, height, width)
        strides = proposal_stage(config).strides_hw(network, height, width)
        for stride, grid, anchors in zip(strides, grids, levels, strict=True):
            straddling = ~inside_image(
                anchors, height, width, config.rpn.targets.straddle_tolerance
            )
            rows.append(
                [
                    f"{height} x {width}",
                    str(images),
                    format_stride(stride),
                    f"{grid[0]} x {grid[1]}",
                    str(len(anchors)),
                    str(int(straddling.sum())),
                ]
            )
    part = "take no part" if config.rpn.targets.drop_straddling else "take part"
    return (
        f"{network.rpn.num_anchors} anchors at each position: sizes {_listed_sizes(config)}; "
        f"aspect ratios (width / height) {_listed(fields.aspect_ratios)}\n"
        f"{format_table(rows)}\n"
        "straddling: cross the border of an image that fills the canvas; in training they "
        f"{part}\n(config.rpn.targets.drop_straddling={config.rpn.targets.drop_straddling})"
    )


def describe_suggestion(
    config: ConfigDict, coverage: Coverage, other: ConfigDict, other_coverage: Coverage
) -> str:
    """Returns a table of the config's and the suggested sizes, and the suggestion as a flag."""
    named = {"config": coverage, "suggested": other_coverage}
    on_grid = [
        [f"on the grid, {name}", *shares(c.best_iou), f"{c.positives_per_image().mean():.1f}"]
        for name, c in named.items()
    ]
    rows = [
        ["", "mean IoU", *(f">= {threshold} %" for threshold in THRESHOLDS), "positives an image"],
        *([f"centred, {name}", *shares(c.centred_iou), "-"] for name, c in named.items()),
        *on_grid,
    ]
    sizes = other.rpn.anchors.sizes
    better, worse = [], []
    for name, before, after in zip(rows[0][1:-1], on_grid[0][1:-1], on_grid[1][1:-1], strict=True):
        if before != after:
            (better if float(after) > float(before) else worse).append(name)
    return (
        f"Sizes that clustering the objects by centred IoU chooses, with the same aspect ratios\n"
        f"config: {_listed_sizes(config)}; suggested: {_listed_sizes(other)}\n\n"
        f"{format_table(rows)}\n"
        "centred: anchor and object have one centre; on the grid: as above\n"
        f"on the grid the suggested sizes raise {_named(better)} and lower {_named(worse)}\n"
        f'"--config.rpn.anchors.sizes={str(sizes).replace(" ", "")}"'
    )


def _listed_sizes(config: ConfigDict) -> str:
    return " | ".join(map(_listed, sizes_per_level(config)))


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _named(figures: Sequence[str]) -> str:
    return ", ".join(figures) or "none of the figures"
