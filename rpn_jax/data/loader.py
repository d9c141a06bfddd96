"""Batches for the host: plan + dataset -> decoded, augmented, mirrored, resized, padded arrays.

Grain reads ahead in threads, one batch per thread; OpenCV releases the interpreter lock meanwhile.
Each process gets a contiguous share of every global batch; all shares have the same canvas.
"""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import grain
import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt8

from rpn_jax.data import images, transforms
from rpn_jax.data.augmentation import Augmentation, Sample, decoded
from rpn_jax.data.datasets import Dataset, Record
from rpn_jax.data.plan import BatchPlan, Buckets, PlannedBatch
from rpn_jax.data.scales import Jitter, Scale
from rpn_jax.errors import UserError

# As good as endless: at 1000 steps a second this is 35 years.
_ENDLESS = 2**40
_SLOT_MULTIPLE = 8


class Batch(NamedTuple):
    """A process's share of a global batch.

    Images are RGB, padded with 0 at the bottom and right to the canvas of the batch's bucket;
    `image_hw` is the size without padding. Boxes are x1, y1, x2, y2 in pixels of the canvas, padded
    to G slots; see `rpn_jax.typing.GroundTruth` for `gt_valid` and `gt_ignore`. `gt_labels` are the
    dataset's labels plus 1, 0 in padding. `proposals` are the dataset's, as the boxes are, padded
    to P slots; P is 0 for a dataset without proposals. `image_index` is the index in the split.
    `image_valid` is False for a filler image in the last batch of a bucket in evaluation: all zeros
    and index 0, but `image_hw` is the canvas size. `gt_masks` are the masks of the objects, each
    cut to its box in `gt_boxes`, see `rpn_jax.typing.GroundTruth`: zeros for ignore regions,
    padding and objects without a mask; None where no masks are wanted.
    """

    images: UInt8[np.ndarray, "B H W 3"]
    image_hw: Float[np.ndarray, "B 2"]
    gt_boxes: Float[np.ndarray, "B G 4"]
    gt_valid: Bool[np.ndarray, "B G"]
    gt_ignore: Bool[np.ndarray, "B G"]
    gt_labels: Int32[np.ndarray, "B G"]
    proposals: Float[np.ndarray, "B P 4"]
    proposal_scores: Float[np.ndarray, "B P"]
    proposal_valid: Bool[np.ndarray, "B P"]
    image_index: Int64[np.ndarray, " B"]
    image_valid: Bool[np.ndarray, " B"]
    gt_masks: UInt8[np.ndarray, "B G S S"] | None = None


def train_batches(
    dataset: Dataset,
    plan: BatchPlan,
    scales: Sequence[Scale | Jitter],
    *,
    augmentations: Sequence[Augmentation] = (),
    start_step: int = 0,
    num_steps: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    max_objects: int | None = None,
    mask_size: int | None = None,
    num_threads: int | None = None,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Yields the batches of steps `start_step`, `start_step + 1`, …, endlessly by default.

    Args:
      dataset: dataset to read.
      plan: order of the images, made from the scales' `buckets.of_example`, which are equal.
      scales: the plan draws one of them in each step.
      augmentations: of each image, in their order.
      start_step: first step; a resumed run gives its next one.
      num_steps: number of batches to yield.
      process_index: index of the share to load of each global batch.
      process_count: number of shares of a global batch; must divide the batch size.
      max_objects: G; by default the most boxes of any image of the dataset, rounded up to 8.
      mask_size: S, rows and columns of the objects' masks; None for none.
      num_threads: number of loading threads; one per CPU by default, 16 at most.
      prefetch: number of batches loaded ahead.

    Raises:
      UserError: an image has more boxes than `max_objects`.
    """
    load = functools.partial(
        _load_batch,
        dataset,
        scales,
        augmentations,
        _share(plan.batch_size, process_index, process_count),
        num_slots=num_slots(dataset, max_objects),
        mask_size=mask_size,
    )
    stop = _ENDLESS if num_steps is None else start_step + num_steps
    steps = grain.MapDataset.range(start_step, stop)
    return _read_ahead(steps.map(lambda step: load(plan.batch(step))), num_threads, prefetch)


def eval_batches(
    dataset: Dataset,
    batch_size: int,
    scale: Scale,
    *,
    process_index: int = 0,
    process_count: int = 1,
    max_objects: int | None = None,
    mask_size: int | None = None,
    num_threads: int | None = None,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Yields every image once, unmirrored, bucket by bucket in the order of the split.

    Images that are not valid fill up the last batch of each bucket, so that all processes see
    equally many batches of equal shape. For the arguments see `train_batches`.
    """
    load = functools.partial(
        _load_batch,
        dataset,
        [scale],
        (),
        _share(batch_size, process_index, process_count),
        num_slots=num_slots(dataset, max_objects),
        mask_size=mask_size,
    )
    batches = list(_eval_plan(scale.buckets, batch_size))
    return _read_ahead(grain.MapDataset.source(batches).map(load), num_threads, prefetch)


def _eval_plan(buckets: Buckets, batch_size: int) -> Iterator[PlannedBatch]:
    """Yields global batches; -1 stands for a filler image."""
    for bucket in range(len(buckets.canvases)):
        members = np.flatnonzero(buckets.of_example == bucket)
        for start in range(0, len(members), batch_size):
            examples = np.full(batch_size, -1, np.int64)
            present = members[start : start + batch_size]
            examples[: len(present)] = present
            flips, draws = np.zeros(batch_size, bool), np.zeros((batch_size, 3))
            yield PlannedBatch(examples, flips, bucket, 0, draws)


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise UserError(
            f"batch_size: {batch_size} images cannot be shared by {process_count} processes; "
            f"take a multiple of {process_count}"
        )
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def num_slots(dataset: Dataset, max_objects: int | None) -> int:
    """Returns G; raises a `UserError` if an image has more boxes than `config.data.max_objects`."""
    most = int(dataset.num_objects.max())
    if max_objects is None:
        return max(1, -(-most // _SLOT_MULTIPLE)) * _SLOT_MULTIPLE
    if most > max_objects:
        crowded = dataset[int(dataset.num_objects.argmax())].filename
        raise UserError(
            f"config.data.max_objects={max_objects}: {crowded} of split {dataset.split} has {most} "
            f"boxes; raise it to {most}"
        )
    return max_objects


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use, such as a job's share."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _read_ahead(
    batches: grain.MapDataset, num_threads: int | None, prefetch: int
) -> Iterator[Batch]:
    # OpenCV's own threads would only compete with Grain's.
    cv2.setNumThreads(1)
    threads = num_threads or min(usable_cores(), 16)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(batches.to_iter_dataset(options))


def _load_batch(
    dataset: Dataset,
    scales: Sequence[Scale | Jitter],
    augmentations: Sequence[Augmentation],
    share: slice,
    planned: PlannedBatch,
    *,
    num_slots: int,
    mask_size: int | None,
) -> Batch:
    """Returns a process's share of a global batch."""
    scale = scales[planned.scale]
    canvas_hw = scale.buckets.canvases[planned.bucket]
    examples, flips, draws = planned.examples[share], planned.flips[share], planned.draws[share]
    batch = _empty_batch(examples, canvas_hw, num_slots, dataset, mask_size)
    for i in np.flatnonzero(batch.image_valid):
        index, flip = int(examples[i]), bool(flips[i])
        record = dataset[index]
        sample = decoded(record, *_proposals_of(dataset, index), with_masks=bool(mask_size))
        seed = *planned.seed, share.start + int(i)
        sample = augmented(sample, augmentations, seed)
        height, width = sample.image.shape[:2]
        view = scale.view(height, width, canvas_hw, draws[i])
        batch.image_hw[i] = view.image_hw
        # Proposals are scaled, mirrored and clipped as the annotated boxes are.
        both = np.concatenate([sample.boxes, sample.proposals])
        _, both = _placed(sample.image, both, view, flip=flip, canvas=batch.images[i])
        kept = view.keeps(both)
        count = len(sample.boxes)
        boxes, given = both[:count], both[count:]
        is_object, is_proposal = kept[:count], kept[count:]
        count = int(is_object.sum())
        if count > num_slots:
            raise UserError(
                f"{record.filename}: config.data.augmentations make {count} boxes of "
                f"{len(record.boxes)}, and there is room for {num_slots}; give "
                f"config.data.max_objects={count} or more"
            )
        batch.gt_boxes[i, :count] = boxes[is_object]
        batch.gt_valid[i, :count] = True
        batch.gt_ignore[i, :count] = sample.ignore[is_object]
        batch.gt_labels[i, :count] = sample.labels[is_object] + 1
        if batch.gt_masks is not None:
            cut_masks(
                sample, view, is_object, flip=flip, out=batch.gt_masks[i], filename=record.filename
            )
        count = int(is_proposal.sum())
        batch.proposals[i, :count] = given[is_proposal]
        batch.proposal_scores[i, :count] = sample.proposal_scores[is_proposal]
        batch.proposal_valid[i, :count] = True
    return batch


def augmented(
    sample: Sample, augmentations: Sequence[Augmentation], seed: tuple[int, ...]
) -> Sample:
    """Returns what the augmentations make of a sample, each with a generator of its own."""
    for place, augmentation in enumerate(augmentations):
        sample = augmentation(sample, np.random.default_rng([*seed, place]))
    return sample


def _empty_batch(
    examples: Int64[np.ndarray, " B"],
    canvas_hw: tuple[int, int],
    num_slots: int,
    dataset: Dataset,
    mask_size: int | None,
) -> Batch:
    """Returns a batch of images that are not loaded yet."""
    size, proposals = len(examples), dataset.proposals.most if dataset.proposals else 0
    gt_masks = None
    if mask_size:
        gt_masks = np.zeros((size, num_slots, mask_size, mask_size), np.uint8)
    return Batch(
        images=np.zeros((size, *canvas_hw, 3), np.uint8),
        image_hw=np.tile(np.array(canvas_hw, np.float32), (size, 1)),
        gt_boxes=np.zeros((size, num_slots, 4), np.float32),
        gt_valid=np.zeros((size, num_slots), bool),
        gt_ignore=np.zeros((size, num_slots), bool),
        gt_labels=np.zeros((size, num_slots), np.int32),
        proposals=np.zeros((size, proposals, 4), np.float32),
        proposal_scores=np.zeros((size, proposals), np.float32),
        proposal_valid=np.zeros((size, proposals), bool),
        image_index=np.maximum(examples, 0),
        image_valid=examples >= 0,
        gt_masks=gt_masks,
    )


def cut_masks(
    sample: Sample,
    view: transforms.View,
    kept: Bool[np.ndarray, " n"],
    *,
    flip: bool,
    out: UInt8[np.ndarray, "G S S"],
    filename: str,
) -> None:
    """Writes the masks of the objects among the kept boxes, cut to what `view` shows of the boxes.

    Resizing changes nothing in a mask that is cut to its box; a crop moves the box.
    """
    height, width = sample.image.shape[:2]
    window = transforms.window(view, height, width)
    if flip:
        window[[0, 2]] = width - window[[2, 0]]
    boxes = np.clip(sample.boxes, np.tile(window[:2], 2), np.tile(window[2:], 2))
    for slot, i in enumerate(np.flatnonzero(kept)):
        if sample.masks is not None and not sample.ignore[i]:
            try:
                mask = sample.masks.cut(int(i), boxes[i], len(out[0]))
            except ValueError as error:
                raise UserError(
                    f"{filename}: its prepared mask {i + 1} runs over the image; prepare "
                    "the dataset anew"
                ) from error
            out[slot] = mask[:, ::-1] if flip else mask


def _proposals_of(dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    if dataset.proposals is None:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    return dataset.proposals.of(index)


def load_example(
    record: Record,
    view: transforms.View,
    *,
    flip: bool = False,
    canvas: UInt8[np.ndarray, "H W 3"] | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "n 4"]]:
    """Returns what `view` shows of a record's image, and of its boxes in those pixels.

    With a canvas, the image is written to its top left; the canvas must be large enough.
    """
    image = images.decode_image(record.image_bytes, record.filename, record.turn)
    return _placed(image, record.boxes, view, flip=flip, canvas=canvas)


def _placed(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "n 4"],
    view: transforms.View,
    *,
    flip: bool,
    canvas: UInt8[np.ndarray, "h w 3"] | None,
) -> tuple[UInt8[np.ndarray, "r c 3"], Float[np.ndarray, "n 4"]]:
    if flip:
        image, boxes = transforms.flip_horizontally(image, boxes)
    rows, columns = view.image_hw
    out = None if canvas is None else canvas[:rows, :columns]
    return transforms.show(image, boxes, view, out)
