"""Builds what a config describes: the detector, its step, and the state before the first one.

Layers below this file do not see a config.
"""

import functools
from collections.abc import Callable

import jax
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from rpn_jax.detectors.detector import Detector
from rpn_jax.detectors.fast_rcnn import FastRCNN
from rpn_jax.detectors.faster_rcnn import FasterRCNN
from rpn_jax.detectors.mask_rcnn import MaskRCNN
from rpn_jax.detectors.rpn import RPN
from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import Measurement, Measurements
from rpn_jax.evaluation.precision import MaskMeasurement, PrecisionMeasurement
from rpn_jax.evaluation.recall import RecallMeasurement
from rpn_jax.models.inputs import input_convention
from rpn_jax.models.rcnn import RCNN, build_rcnn, frozen_paths_of, init_variables, trainable_mask
from rpn_jax.runs.config import random_key
from rpn_jax.runs.fields import check_config
from rpn_jax.runs.processes import is_first
from rpn_jax.text import printable
from rpn_jax.training.stages import (
    anchors_at_origin,
    box_head_fields,
    box_stage,
    mask_head_fields,
    mask_stage,
    proposal_stage,
    rpn_head_fields,
)
from rpn_jax.training.state import TrainState, initial_state
from rpn_jax.training.step import make_train_step
from rpn_jax.weights.loading import Pretrained
from rpn_jax.weights.sources import load_source, read_source


def build_network(config: ConfigDict) -> RCNN:
    """Returns the network of `config.model`; raises a `UserError` if it is impossible."""
    input_convention(config.model.input_convention)
    options = config.model.to_dict()
    for name in ("pretrained", "pretrained_head", "pretrained_last", "input_convention"):
        del options[name]
    if options.pop("frozen_neck") and not options["neck"]:
        raise UserError(
            "config.model.frozen_neck: is True, but the network has no neck; set it to False, or "
            "config.model.neck to fpn"
        )
    network = build_rcnn(
        box=box_head_fields(config),
        mask=mask_head_fields(config),
        **rpn_head_fields(config),
        **options,
    )
    if network.rpn:
        _check_levels(config, network)
    return network


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


def build_measurement(config: ConfigDict, *, of_masks: bool = True) -> Measurements:
    """Returns an empty measurement of all that the config's detector is judged by.

    `of_masks` is False for a split without masks.
    """
    measurements: dict[str, Measurement] = {}
    if "mask" in config and of_masks:  # first, to stand beside detections
        measurements["masks"] = MaskMeasurement(config.box.class_names)
    measurements["proposals"] = RecallMeasurement(config.evaluation.top_ns)
    if "box" in config:
        measurements["detections"] = PrecisionMeasurement(config.box.class_names)
    return Measurements(measurements)


def frozen_paths(config: ConfigDict) -> tuple[tuple[str, ...], ...]:
    """Returns the paths of the parameters that are not trained, for `trainable_mask`."""
    return frozen_paths_of(config.model.frozen_stages, config.model.frozen_neck)


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
