"""Builds what a config describes: detector, data, and the state before the first step.

Layers below this file do not see a config.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset, open_dataset
from rpn_jax.data.loader import Batch
from rpn_jax.detectors.detector import Detector
from rpn_jax.detectors.rpn import RPN, Counts, ProposalStage
from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import Measurement
from rpn_jax.evaluation.recall import RecallMeasurement
from rpn_jax.models.inputs import input_convention
from rpn_jax.models.rcnn import RCNN, build_rpn, frozen_stages_of, init_variables, trainable_mask
from rpn_jax.ops.anchors import cell_anchors
from rpn_jax.runs.config import random_key, sizes_per_level
from rpn_jax.runs.fields import check_config
from rpn_jax.runs.processes import is_first
from rpn_jax.text import printable
from rpn_jax.training.state import TrainState, initial_state
from rpn_jax.training.step import make_train_step
from rpn_jax.typing import GroundTruth, Images
from rpn_jax.weights.loading import Pretrained
from rpn_jax.weights.sources import load_source, read_source


def device_batch(batch: Batch) -> Images:
    """Returns the part of a host batch that the devices need: pixels as bytes, no bookkeeping."""
    return Images(
        images=batch.images,
        image_hw=batch.image_hw,
        image_index=batch.image_index.astype(np.int32),
        ground_truth=GroundTruth(batch.gt_boxes, batch.gt_valid, batch.gt_ignore),
    )


def build_network(config: ConfigDict) -> RCNN:
    """Returns the network of `config.model`; raises a `UserError` if it is impossible."""
    input_convention(config.model.input_convention)
    options = config.model.to_dict()
    del options["pretrained"], options["pretrained_head"], options["input_convention"]
    cells = anchors_at_origin(config)
    network = build_rpn(
        num_anchors=len(cells[0]),
        head_channels=config.rpn.channels,
        objectness=config.rpn.objectness,
        **options,
    )
    if len(cells) != len(network.strides):
        raise UserError(
            f"config.rpn.anchors.sizes: number of levels is {len(cells)}, but that of the network "
            f"is {len(network.strides)} (stride {', '.join(map(str, network.strides))}); give "
            + ("a tuple of sizes for each, finest first" if network.neck else "numbers alone")
        )
    return network


def _build_rpn(config: ConfigDict) -> RPN:
    return RPN(
        network=build_network(config),
        proposals=proposal_stage(config),
        pixels=input_convention(config.model.input_convention),
    )


# Detectors by the name in a config's `detector`.
DETECTORS = {"rpn": _build_rpn}


def build_detector(config: ConfigDict) -> Detector:
    """Returns the detector that the config describes.

    Raises:
        UserError: a field that is wrong, an unknown kind of detector, or an impossible network.
    """
    check_config(config)
    if config.detector not in DETECTORS:
        raise UserError(
            f"config.detector: {config.detector!r} is unknown; use one of {', '.join(DETECTORS)}"
        )
    return DETECTORS[config.detector](config)


def build_measurement(config: ConfigDict) -> Measurement:
    """Returns an empty measurement of the kind that the config's detector is judged by."""
    return RecallMeasurement(config.evaluation.top_ns)


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
    loaded = pretrained.collections

    def drawn(key):
        params = init(key)["params"]
        return {part: tree for part, tree in params.items() if part not in loaded["params"]}

    # XLA does not compute what is not returned: only parts missing in the file are drawn.
    return {**loaded, "params": {**loaded["params"], **jax.jit(drawn)(key)}}


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
    return dataset


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
    drawn = [part for part in ("neck", "rpn") if getattr(network, part) and part not in loaded]
    if is_first():
        rest = f"; drawn from the seed: {' and '.join(drawn)}" if drawn else ""
        print(printable(f"{source.path}: {pretrained}{rest}"))
    return pretrained
