"""The command `preview`: the images of a config's first steps as the network will see them."""

import functools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict, FrozenConfigDict

from rpn_jax.data.datasets import Dataset
from rpn_jax.data.loader import Batch, train_batches
from rpn_jax.data.plan import PlannedBatch
from rpn_jax.detectors.detector import Detector
from rpn_jax.detectors.targets import assign_targets
from rpn_jax.errors import UserError
from rpn_jax.evaluation.masks import paste_mask
from rpn_jax.files import check_out
from rpn_jax.ops.matching import Label
from rpn_jax.reports.document import Picture, Pictures, Section, Table, Text, write_document
from rpn_jax.runs.config import random_key
from rpn_jax.runs.fields import check_config
from rpn_jax.tables import format_table
from rpn_jax.text import printable
from rpn_jax.training.begin import training_augmentations
from rpn_jax.training.build import build_detector
from rpn_jax.training.evaluate import loader_fields
from rpn_jax.training.loop import training_plan
from rpn_jax.training.splits import open_training, with_classes, with_proposals
from rpn_jax.training.step import image_keys
from rpn_jax.typing import GroundTruth
from rpn_jax.visualize.boxes import draw_matches, draw_proposals, write_image
from rpn_jax.visualize.detections import draw_annotations

_LONG_SIDE = 900  # pixels of a picture
_MASK_SIZE = 112  # cells of a mask's side, where the network has no size of its own
_PADDING = 200  # grey


class Seen(NamedTuple):
    """One image of a training step, and what the anchors are told about it.

    `labels` and `objects` are of each anchor: see `ops.matching.Label`, IGNORE for all that are not
    sampled; and the object of a positive one, sampled or not, -1 for others. Both are empty for a
    detector without anchors.
    """

    step: int  # 1 is the first
    place: int  # in the batch
    batch: Batch
    planned: PlannedBatch
    labels: Int[np.ndarray, " A"]
    objects: Int[np.ndarray, " A"]

    @property
    def is_object(self) -> Bool[np.ndarray, " G"]:
        """Which slots have an object, no padding and no ignore region."""
        return self.batch.gt_valid[self.place] & ~self.batch.gt_ignore[self.place]

    def without_anchor(self) -> int:
        """Returns the number of objects that no anchor is positive for."""
        return len(np.setdiff1d(np.flatnonzero(self.is_object), self.objects))


def write_preview(config: ConfigDict, out: pathlib.Path, *, images: int = 12, step: int = 1) -> str:
    """Writes `preview.html` and its pictures into the folder `out`; returns a table as text.

    Args:
        config: of the training.
        out: folder to write.
        images: how many to show.
        step: the first whose images are shown.

    Raises:
        UserError: a field or an argument is wrong, or the dataset is not prepared.
    """
    check_config(config)
    if images < 1:
        raise UserError(f"--images={images}: give a number from 1 up")
    if not 1 <= step <= config.steps:
        raise UserError(
            f"--step={step}: give a step from 1 to config.steps, which is {config.steps}"
        )
    check_out(out, folder=True)
    dataset = open_training(config)
    config = with_classes(config, dataset)
    dataset = with_proposals(config, dataset, "train")
    detector = build_detector(config)
    seen = list(seen_images(config, detector, dataset, images, step))
    table = _table(config, dataset, seen)
    pictures = [
        picture
        for number, one in enumerate(seen)
        for picture in _pictures(detector, dataset, one, out, f"{number:03d}")
    ]
    title = f"{dataset.name} {dataset.split} as the network sees it"
    padding = "Padding, which the network is given as the mean colour, is grey."
    sections = [
        Section("In numbers", [table]),
        Section("Images", [Text(padding), Pictures(pictures, are_wide=True)]),
    ]
    write_document(title, sections, out, "preview")
    return f"{format_table([table.header, *table.rows])}\n{printable(out / 'preview.html')}"


def seen_images(
    config: ConfigDict, detector: Detector, dataset: Dataset, images: int, step: int = 1
) -> Iterator[Seen]:
    """Yields so many images of the training, from a step on, with the labels of their anchors."""
    plan, scales = training_plan(config, dataset)
    fields = {**loader_fields(config), "process_index": 0, "process_count": 1}
    if dataset.has_masks:
        fields["mask_size"] = fields["mask_size"] or _MASK_SIZE
    steps = math.ceil(images / config.batch_size)
    fields |= {"augmentations": training_augmentations(config, dataset)}
    batches = train_batches(dataset, plan, scales, start_step=step - 1, num_steps=steps, **fields)
    left = images
    for number, batch in enumerate(batches, step):
        labels, objects = _anchor_labels(config, detector, batch, number - 1)
        for place in range(min(left, len(batch.images))):
            yield Seen(number, place, batch, plan.batch(number - 1), labels[place], objects[place])
        left -= len(batch.images)


def _anchor_labels(
    config: ConfigDict, detector: Detector, batch: Batch, step: int
) -> tuple[Int[np.ndarray, "B A"], Int[np.ndarray, "B A"]]:
    """Returns the labels and objects of the anchors in the step after so many, see `Seen`."""
    anchors = detector.anchors(*batch.images.shape[1:3])
    if not anchors:
        nothing = np.zeros((len(batch.images), 0), int)
        return nothing, nothing
    ground_truth = GroundTruth(batch.gt_boxes, batch.gt_valid, batch.gt_ignore)
    labels, objects = _targets(
        image_keys(random_key(config), step, 0, len(batch.images)),
        jnp.concatenate(anchors),
        ground_truth,
        batch.image_hw,
        fields=FrozenConfigDict(config.rpn.targets),
    )
    return np.asarray(labels), np.asarray(objects)


@functools.partial(jax.jit, static_argnames="fields")
def _targets(keys, anchors, ground_truth: GroundTruth, image_hw, *, fields: FrozenConfigDict):
    def of_image(key, ground_truth, image_hw):
        targets = assign_targets(key, anchors, ground_truth, image_hw, **fields)
        is_positive = targets.matches.labels == Label.POSITIVE
        return targets.labels, jnp.where(is_positive, targets.matches.gt_index, -1)

    return jax.vmap(of_image)(keys, ground_truth, image_hw)


def _table(config: ConfigDict, dataset: Dataset, seen: Sequence[Seen]) -> Table:
    objects = [int(one.is_object.sum()) for one in seen]
    ignored = sum(int(one.batch.gt_ignore[one.place].sum()) for one in seen)
    annotated = sum(int(dataset.num_objects[one.batch.image_index[one.place]]) for one in seen)
    canvases = {one.batch.images.shape[1:3] for one in seen}
    pixels = [one.batch.image_hw[one.place].prod() for one in seen]
    padding = 1 - sum(pixels) / sum(math.prod(one.batch.images.shape[1:3]) for one in seen)
    steps = seen[0].step, seen[-1].step
    rows = [
        ["images", str(len(seen))],
        ["of the steps", f"{steps[0]} to {steps[1]}"],
        ["augmentations", ", ".join(config.data.augmentations) or "none"],
        ["canvases (height x width)", ", ".join(f"{h} x {w}" for h, w in sorted(canvases))],
        ["padding", f"{100 * padding:.0f} %"],
        ["objects", str(sum(objects))],
        ["ignore regions", str(ignored)],
        ["boxes that a crop removed", str(annotated - sum(objects) - ignored)],
    ]
    if seen[0].labels.size:
        positives = [one.objects >= 0 for one in seen]
        sampled = [one.labels == Label.POSITIVE for one in seen]
        negatives = [one.labels == Label.NEGATIVE for one in seen]
        rows += [
            ["positive anchors an image", _mean_count(positives)],
            ["of them sampled", _mean_count(sampled)],
            ["negative anchors sampled", _mean_count(negatives)],
            ["objects without a positive anchor", str(sum(one.without_anchor() for one in seen))],
        ]
    return Table(["", "number"], rows, names=1)


def _mean_count(masks: Sequence[Bool[np.ndarray, " _"]]) -> str:
    return f"{np.mean([mask.sum() for mask in masks]):.1f}"


def _pictures(
    detector: Detector, dataset: Dataset, one: Seen, out: pathlib.Path, name: str
) -> list[Picture]:
    """Writes the two pictures of an image."""
    batch, place = one.batch, one.place
    height, width = batch.image_hw[place].astype(int).tolist()
    image = batch.images[place].copy()
    image[height:], image[:, width:] = _PADDING, _PADDING
    valid = batch.gt_valid[place]
    boxes, ignore = batch.gt_boxes[place][valid], batch.gt_ignore[place][valid]
    masks = None
    if batch.gt_masks is not None:
        masks = [
            paste_mask(mask / np.float32(255), box, *image.shape[:2])
            for mask, box in zip(batch.gt_masks[place][valid], boxes, strict=True)
        ]
    annotated = draw_annotations(
        image,
        boxes,
        batch.gt_labels[place][valid] - 1,
        ignore,
        dataset.class_names,
        masks=masks,
        long_side=_LONG_SIDE,
    )
    written = []
    for kind, picture, text in (
        ("objects", annotated, _caption(dataset, one)),
        _told(detector, one, image, boxes, ignore),
    ):
        file = f"pictures/{name}_{kind}.jpg"
        write_image(out / file, picture)
        written.append(Picture(file, text, has_caption=True))
    return written


def _caption(dataset: Dataset, one: Seen) -> str:
    index = int(one.batch.image_index[one.place])
    record = dataset[index]
    height, width = one.batch.image_hw[one.place].astype(int).tolist()
    mirrored = ", mirrored" if one.planned.flips[one.place] else ""
    return (
        f"step {one.step}, image {one.place + 1}: {pathlib.PurePath(record.filename).name}, "
        f"{record.height} x {record.width} pixels, shown in {height} x {width}{mirrored}"
    )


def _told(
    detector: Detector,
    one: Seen,
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "G 4"],
    ignore: Bool[np.ndarray, " G"],
) -> tuple[str, UInt8[np.ndarray, "h w 3"], str]:
    """Returns the kind, the picture and the caption of an image's anchors, or of its proposals."""
    batch, place = one.batch, one.place
    if not one.labels.size:
        valid = batch.proposal_valid[place]
        found, scores = batch.proposals[place][valid], batch.proposal_scores[place][valid]
        picture = draw_proposals(
            image, found, scores, gt_boxes=boxes, gt_ignore=ignore, long_side=_LONG_SIDE
        )
        return "proposals", picture, f"{len(found)} given proposals"
    anchors = np.concatenate([np.asarray(level) for level in detector.anchors(*image.shape[:2])])
    picture = draw_matches(image, anchors, one.labels, boxes, ignore, long_side=_LONG_SIDE)
    sampled = int((one.labels == Label.POSITIVE).sum())
    text = f"{sampled} of {int((one.objects >= 0).sum())} positive anchors sampled"
    if missing := one.without_anchor():
        text += f"; {missing} of {int(one.is_object.sum())} objects without a positive anchor"
    return "anchors", picture, text
