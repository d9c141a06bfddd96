"""Builds what a config describes: detector, data, and the state before the first step.

Layers below this file do not see a config.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset, open_dataset
from rpn_jax.data.loader import Batch
from rpn_jax.data.proposals import read_proposals
from rpn_jax.detectors.box import BoxStage, DetectionLimits, RegionTargets
from rpn_jax.detectors.detector import Detector
from rpn_jax.detectors.fast_rcnn import FastRCNN
from rpn_jax.detectors.faster_rcnn import FasterRCNN
from rpn_jax.detectors.mask import MaskStage
from rpn_jax.detectors.mask_rcnn import MaskRCNN
from rpn_jax.detectors.rpn import RPN, Counts, ProposalStage
from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import Measurement, Measurements
from rpn_jax.evaluation.precision import PrecisionMeasurement
from rpn_jax.evaluation.recall import RecallMeasurement
from rpn_jax.models.inputs import input_convention
from rpn_jax.models.rcnn import RCNN, build_rcnn, frozen_stages_of, init_variables, trainable_mask
from rpn_jax.ops.anchors import cell_anchors
from rpn_jax.ops.roi import pyramid_roi_align, roi_pool
from rpn_jax.runs.config import random_key, sizes_per_level
from rpn_jax.runs.fields import check_config
from rpn_jax.runs.processes import is_first
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.text import printable
from rpn_jax.training.state import TrainState, initial_state
from rpn_jax.training.step import make_train_step
from rpn_jax.typing import Array, GroundTruth, Images, Proposals
from rpn_jax.weights.loading import Pretrained
from rpn_jax.weights.sources import load_source, read_source


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


def build_network(config: ConfigDict) -> RCNN:
    """Returns the network of `config.model`; raises a `UserError` if it is impossible."""
    input_convention(config.model.input_convention)
    options = config.model.to_dict()
    del options["pretrained"], options["pretrained_head"], options["input_convention"]
    network = build_rcnn(
        box=box_head_fields(config),
        mask=mask_head_fields(config),
        **rpn_head_fields(config),
        **options,
    )
    if network.rpn:
        _check_levels(config, network)
    return network


def rpn_head_fields(config: ConfigDict) -> dict[str, Any]:
    """Returns what `rcnn.build_rcnn` is to know of the config's first stage."""
    if "rpn" not in config:
        return {"num_anchors": 0}
    return {
        "num_anchors": len(anchors_at_origin(config)[0]),
        "head_channels": config.rpn.channels,
        "head_convolutions": config.rpn.convolutions,
        "objectness": config.rpn.objectness,
    }


def _check_levels(config: ConfigDict, network: RCNN) -> None:
    """Raises a `UserError` unless each level of the network has anchors."""
    count = len(anchors_at_origin(config))
    if count != len(network.strides):
        raise UserError(
            f"config.rpn.anchors.sizes: number of levels is {count}, but that of the network "
            f"is {len(network.strides)} (stride {', '.join(map(str, network.strides))}); give "
            + ("a tuple of sizes for each, finest first" if network.neck else "numbers alone")
        )


def _build_rpn(config: ConfigDict) -> RPN:
    return RPN(
        network=build_network(config),
        proposals=proposal_stage(config),
        pixels=input_convention(config.model.input_convention),
    )


def _build_faster_rcnn(config: ConfigDict) -> FasterRCNN:
    first = _build_rpn(config)
    return FasterRCNN(**vars(first), boxes=box_stage(config, first.network))


def _build_mask_rcnn(config: ConfigDict) -> MaskRCNN:
    first = _build_faster_rcnn(config)
    return MaskRCNN(**vars(first), masks=mask_stage(config, first.network))


def _build_fast_rcnn(config: ConfigDict) -> FastRCNN:
    network = build_network(config)
    pixels = input_convention(config.model.input_convention)
    return FastRCNN(network, box_stage(config, network), pixels)


# Detectors by the name in a config's `detector`.
DETECTORS = {
    "rpn": _build_rpn,
    "faster_rcnn": _build_faster_rcnn,
    "mask_rcnn": _build_mask_rcnn,
    "fast_rcnn": _build_fast_rcnn,
}


def build_detector(config: ConfigDict) -> Detector:
    """Returns the detector that the config describes.

    Raises:
        UserError: a field that is wrong, an unknown kind of detector, or an impossible network.
    """
    check_config(config)
    return DETECTORS[config.detector](config)


def build_measurement(config: ConfigDict) -> Measurements:
    """Returns an empty measurement of all that the config's detector is judged by."""
    measurements: dict[str, Measurement] = {
        "proposals": RecallMeasurement(config.evaluation.top_ns)
    }
    if "box" in config:
        measurements["detections"] = PrecisionMeasurement(config.box.class_names)
    return Measurements(measurements)


def proposal_stage(config: ConfigDict) -> ProposalStage:
    """Returns the first stage of the config's detector."""
    rpn = config.rpn
    train, test = (Counts(**rpn.proposals[name]) for name in ("train", "test"))
    # Recall is measured with more proposals than a second stage would get.
    most = max(config.evaluation.top_ns)
    return ProposalStage(
        cells=anchors_at_origin(config),
        offset=rpn.anchors.offset,
        floor_strides=rpn.anchors.rounding == "torchvision",
        targets=rpn.targets.to_dict(),
        loss=rpn.loss.to_dict(),
        box_weights=rpn.box_weights,
        train=train,
        test=test,
        measured=Counts(*(max(count, most) for count in test)),
        nms_threshold=rpn.proposals.nms_threshold,
        min_size=rpn.proposals.min_size,
        keep_padding=rpn.proposals.keep_padding,
    )


def box_head_fields(config: ConfigDict) -> dict[str, Any] | None:
    """Returns what `rcnn.build_rcnn` is to know of the config's second stage, None without one."""
    if "box" not in config:
        return None
    if not config.box.class_names:
        raise UserError(
            "config.box.class_names: the classes are not known before the data are; give them, or "
            "prepare the data"
        )
    return {
        "kind": config.box.head,
        "num_classes": 1 + len(config.box.class_names),
        "pooled_size": config.box.pooling.size,
        "channels": config.box.channels,
        "dropout": config.box.dropout,
        "norm": config.box.norm,
        "class_agnostic": config.box.class_agnostic,
    }


def box_stage(config: ConfigDict, network: RCNN) -> BoxStage:
    """Returns the second stage of the config's detector."""
    box, pooling = config.box, config.box.pooling
    strides = network.pooled_strides
    if pooling.kind == "align":
        pool = _align(pooling, strides)
    elif len(strides) == 1:
        pool = functools.partial(_pool_level, size=pooling.size, scale=1 / strides[0])
    else:
        raise UserError(
            'config.box.pooling.kind: RoIPool has no pyramid of levels; give "align", or '
            "config.model.neck=None"
        )
    return BoxStage(
        pool=pool,
        targets=RegionTargets(**box.targets),
        limits=DetectionLimits(**box.detections),
        box_weights=box.box_weights,
        **box.loss,
    )


def mask_head_fields(config: ConfigDict) -> dict[str, Any] | None:
    """Returns what `rcnn.build_rcnn` is to know of the config's third stage, None without one."""
    if "mask" not in config:
        return None
    mask = config.mask
    if config.box.head == "c5" and mask.pooling.size != config.box.pooling.size:
        raise UserError(
            f"config.mask.pooling.size: is {mask.pooling.size}, but stage c5, which the two heads "
            f"share, gets {config.box.pooling.size} of the box head; set it to that"
        )
    return {
        "num_classes": 1 + len(config.box.class_names),
        "pooled_hw": (mask.pooling.size, mask.pooling.size),
        "channels": mask.channels,
        "convolutions": mask.convolutions,
        "norm": mask.norm,
    }


def mask_stage(config: ConfigDict, network: RCNN) -> MaskStage:
    """Returns the third stage of the config's detector."""
    mask, targets = config.mask, config.box.targets
    return MaskStage(
        pool=_align(mask.pooling, network.pooled_strides),
        max_objects=int(targets.batch_size_per_image * targets.positive_fraction),
        **mask.targets,
        **mask.loss,
    )


def _align(pooling: ConfigDict, strides: Sequence[int]) -> Callable[..., Array]:
    return functools.partial(
        pyramid_roi_align,
        size=pooling.size,
        strides=strides,
        sampling_ratio=pooling.sampling_ratio,
        aligned=pooling.aligned,
        canonical_size=pooling.canonical_size,
        eps=pooling.level_eps,
    )


def _pool_level(levels: tuple[Array, ...], boxes: Array, *, size: int, scale: float) -> Array:
    return roi_pool(levels[0], boxes, size=size, scale=scale)


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


def frozen_paths(config: ConfigDict) -> tuple[tuple[str, ...], ...]:
    """Returns the paths of the parameters that are not trained, for `trainable_mask`."""
    return frozen_stages_of(config.model.frozen_stages)


def new_state(
    config: ConfigDict,
    network: RCNN,
    optimizer: optax.GradientTransformation,
    pretrained: Pretrained | None = None,
) -> TrainState:
    """Returns the state before the first step."""
    variables = initial_variables(config, network, pretrained)
    mask = trainable_mask(variables["params"], frozen_paths(config))
    return initial_state(variables, mask, optimizer, with_ema=bool(config.ema_decay))


def build_train_step(
    config: ConfigDict,
    detector: Detector,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> Callable:
    """Returns the config's training step, see `step.make_train_step`."""
    return make_train_step(
        detector,
        optimizer,
        schedule,
        frozen=frozen_paths(config),
        accumulation=config.accumulation,
        ema_decay=config.ema_decay,
    )


def state_shapes(
    config: ConfigDict, network: RCNN, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the shapes of `new_state`, without compilation."""
    return jax.eval_shape(lambda: new_state(config, network, optimizer))


def initial_variables(config: ConfigDict, network: RCNN, pretrained: Pretrained | None) -> dict:
    """Returns variables drawn from the seed, except for the pretrained parts."""
    init, key = functools.partial(init_variables, network), random_key(config)
    if pretrained is None:
        return jax.jit(init)(key)
    loaded = traverse_util.flatten_dict(pretrained.collections)

    def drawn(key):
        variables = traverse_util.flatten_dict(init(key))
        return {path: leaf for path, leaf in variables.items() if path not in loaded}

    # XLA does not compute what is not returned: only what is missing in the file is drawn.
    return traverse_util.unflatten_dict({**loaded, **jax.jit(drawn)(key)})


def anchors_at_origin(config: ConfigDict) -> tuple[np.ndarray, ...]:
    """Returns each level's (K, 4) anchors of one position; raises a `UserError` for bad fields."""
    fields = config.rpn.anchors
    try:
        return tuple(
            cell_anchors(sizes, fields.aspect_ratios, rounding=fields.rounding)
            for sizes in sizes_per_level(config)
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"config.rpn.anchors: {error}; correct the field") from error


def open_split(config: ConfigDict, split: str, *, needs_objects: bool = False) -> Dataset:
    """Returns a split of the config's prepared dataset.

    Raises:
        UserError: the split is not prepared; or `needs_objects` and it has no object.
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
            "there is nothing to learn or to find; name another split"
        )
    if "mask" in config and not dataset.has_masks:
        raise UserError(
            f"{data.dataset}: split {split!r} has no masks, of which a mask_rcnn learns; name a "
            "dataset that has some (one of an earlier version has them after rpn-jax prepare "
            "--anew), or train a faster_rcnn"
        )
    if "box" in config and config.box.class_names:
        return dataset.with_classes(config.box.class_names)
    return dataset


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
    return dataset.with_proposals(read_proposals(fields[role], dataset.images(), top_n, split))


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


def load_pretrained(config: ConfigDict, network: RCNN) -> Pretrained | None:
    """Returns the pretrained parts in the file `config.model.pretrained`, None without a file.

    Raises:
        UserError: the file does not hold weights of this network, or they mean something else.
    """
    if not config.model.pretrained:
        return None
    source = read_source(config.model.pretrained)
    pretrained = load_source(config, network, source)
    loaded = pretrained.collections["params"]
    drawn = [
        part
        for part in ("neck", "rpn", "box", "mask")
        if getattr(network, part) and part not in loaded
    ]
    drawn += [module for module in pretrained.missing if module.partition("/")[0] not in drawn]
    if is_first():
        rest = f"; drawn from the seed: {' and '.join(drawn)}" if drawn else ""
        print(printable(f"{source.path}: {pretrained}{rest}"))
    return pretrained
