"""The splits that a config names: opened, with its classes and proposals, and put on devices."""

import pathlib

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset, open_dataset
from rpn_jax.data.datasets.joined import Joined
from rpn_jax.data.loader import Batch
from rpn_jax.data.proposals import read_proposals
from rpn_jax.data.sampling import repeat_factors, share_factors
from rpn_jax.errors import UserError
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.typing import GroundTruth, Images, Proposals


def device_batch(batch: Batch) -> Images:
    """Returns the part of a host batch that the devices need: pixels as bytes, no bookkeeping."""
    proposals = None
    if batch.proposals.shape[1]:
        proposals = given_proposals(batch.proposals, batch.proposal_scores, batch.proposal_valid)
    return Images(
        images=batch.images,
        image_hw=batch.image_hw,
        image_index=batch.image_index.astype(np.int32),
        ground_truth=GroundTruth(
            batch.gt_boxes, batch.gt_valid, batch.gt_ignore, batch.gt_labels, batch.gt_masks
        ),
        proposals=proposals,
    )


def given_proposals(boxes: np.ndarray, scores: np.ndarray, valid: np.ndarray) -> Proposals:
    """Returns proposals of any origin, which come of no level."""
    return Proposals(boxes, scores, valid, np.zeros(valid.shape, np.int32))


def with_classes(config: ConfigDict, dataset: Dataset) -> ConfigDict:
    """Returns the config with the dataset's classes and ids, as far as a second stage lacks them.

    `dataset` is as `open_split` returns it: in the order of the config's classes, if it has some.
    """
    if "box" not in config or (config.box.class_names and config.box.category_ids):
        return config
    config = config.copy_and_resolve_references()
    config.box.class_names = dataset.class_names
    config.box.category_ids = dataset.category_ids
    return config


def with_classes_of_run(config: ConfigDict, workdir: pathlib.Path) -> ConfigDict:
    """Returns the config with the classes of the run begun in a folder, where it has none.

    So a run goes on in its own order of classes, whatever the order of the data is by now.
    """
    if "box" not in config or config.box.class_names or not (workdir / "config.json").is_file():
        return config
    begun = load_workdir_config(workdir)
    if "box" not in begun:  # `claim_workdir` says so
        return config
    config = config.copy_and_resolve_references()
    config.box.class_names = begun.box.class_names
    config.box.category_ids = config.box.category_ids or begun.box.category_ids
    return config


def with_known_classes(config: ConfigDict) -> ConfigDict:
    """Returns the config with its classes, of its prepared data where it has none of its own.

    Raises:
        UserError: it has a second stage without classes, and the data are not prepared.
    """
    if "box" not in config or config.box.class_names:
        return config
    return with_classes(config, open_split(config, config.data.train_split))


def open_split(
    config: ConfigDict, split: str, *, needs_objects: bool = False, needs_masks: bool = True
) -> Dataset:
    """Returns a split of the config's prepared dataset.

    `needs_objects` and `needs_masks` are for training.

    Raises:
        UserError: the split is not prepared; or `needs_objects` and it has no object; or
            `needs_masks`, the detector makes some, and it has none.
    """
    data = config.data
    dataset = open_dataset(
        data.dataset,
        split,
        data_dir=data.data_dir,
        source=data.source,
        **data.options.to_dict(),
    )
    if needs_objects and not dataset.has_objects:
        raise UserError(
            f"{data.dataset}: split {split!r} has no objects in its {len(dataset)} images, so that "
            "there is nothing to learn or to find (difficult ones and crowds do not count); name "
            "another split as config.data.train_split or config.data.eval_split"
        )
    if needs_masks and "mask" in config and not dataset.has_masks:
        raise UserError(
            f"{data.dataset}: split {split!r} has no masks that can be used, by which a mask_rcnn "
            "learns and is validated; name another as config.data.train_split or "
            "config.data.eval_split, mend those that the report of prepare lists, prepare data of "
            "an earlier version with --anew, set config.evaluation.every to 0 if only the "
            "validation lacks them, or train a faster_rcnn"
        )
    if "box" in config and config.box.class_names:
        return dataset.with_classes(config.box.class_names, to_train=needs_objects)
    return dataset


def open_training(config: ConfigDict) -> Dataset:
    """Returns the images that a training shows: those of `train_split` of all sources.

    Raises:
        UserError: as `open_split`; or the sources have other classes.
    """
    split, sources = config.data.train_split, sources_of(config)
    if len(sources) == 1:
        return open_split(config, split, needs_objects=True)
    parts = []
    for source in sources:
        part = config.copy_and_resolve_references()
        part.data.source = source
        parts.append(open_split(part, split, needs_objects=True))
    return Joined(parts, sources)


def sources_of(config: ConfigDict) -> list[str | None]:
    """Returns the folders that a training reads, `data.source` first; [None] without any."""
    return [config.data.source, *config.data.more_sources]


def sampling_weights(config: ConfigDict, dataset: Dataset) -> Float[np.ndarray, " N"] | None:
    """Returns how often a training shows each image in an epoch; None: once."""
    threshold, shares = config.data.repeat_threshold, config.data.source_weights
    if not threshold and not shares:
        return None
    weights = np.ones(len(dataset))
    if threshold:
        weights = repeat_factors(dataset.image_classes(), threshold)
    if shares and isinstance(dataset, Joined):
        weights = share_factors(weights, dataset.part_of, np.array(shares, np.float64))
    return weights


def with_proposals(config: ConfigDict, dataset: Dataset, role: str) -> Dataset:
    """Returns the dataset with its images' stored proposals, if the detector has no RPN.

    `role` is "train" or "eval": which of the files in `config.data.proposals` has them.

    Raises:
        UserError: no file is named; it cannot be read, or is of other images.
    """
    if "rpn" in config:
        return dataset
    fields = config.data.proposals
    if not fields[role]:
        raise UserError(
            f"config.data.proposals.{role}: is None, but the detector has no RPN; give a file of "
            f"rpn-jax propose --workdir=RUN --split={dataset.split}, or of COCO's results"
        )
    top_n, split = fields[f"{role}_top_n"], f"{dataset.name} {dataset.split}"
    images, pixels = dataset.images(), dataset.pixels
    return dataset.with_proposals(read_proposals(fields[role], images, top_n, split, pixels))


def check_batch_size(field: str, batch_size: int, accumulation: int = 1) -> None:
    """Raises a `UserError` that names the field unless the devices can share the batch evenly.

    Each device's share must be a multiple of `accumulation`, the number of micro-batches.
    """
    if accumulation < 1:
        raise UserError(f"config.accumulation={accumulation}: give a number of micro-batches, or 1")
    devices = jax.device_count()
    count = devices * accumulation
    if batch_size < 1 or batch_size % count:
        micro_batches = f" in {accumulation} micro-batches each" if accumulation > 1 else ""
        raise UserError(
            f"{field}={batch_size}: {devices} devices cannot share it evenly{micro_batches}; "
            f"give a multiple of {count}"
        )
