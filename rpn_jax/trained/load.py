"""A trained network, from a run's folder or a model file."""

import pathlib

from ml_collections import ConfigDict

from rpn_jax.detectors.detector import Detector
from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.runs import devices
from rpn_jax.runs.best import best_kept_step
from rpn_jax.runs.workdir import load_workdir_config, not_begun
from rpn_jax.training.build import build_detector, state_shapes
from rpn_jax.training.checkpoint import Checkpoints, saved_steps
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.state import evaluation_variables
from rpn_jax.weights.model_file import check_fits, read_model


def trained_config(place: pathlib.Path) -> ConfigDict:
    """Returns the config stored with a trained network: in a run's folder, or in a model file.

    Raises:
        UserError: `place` is neither, or cannot be read.
    """
    if not place.exists():
        raise UserError(f"{place}: no such run's folder or model file; correct the path")
    if not place.is_dir():
        return read_model(place).config
    if not (place / "config.json").is_file():
        raise not_begun(str(place), place)
    return load_workdir_config(place)


def check_detects(config: ConfigDict, place: str | pathlib.Path) -> None:
    """Raises a `UserError` unless the network has a second stage, which knows classes."""
    if "box" not in config:
        raise UserError(
            f"{place}: holds an RPN, which proposes boxes and knows no classes; propose with it, "
            'or train a detector: default_config("faster_rcnn")'
        )


def check_proposes(config: ConfigDict, place: str | pathlib.Path) -> None:
    """Raises a `UserError` unless the network has an RPN."""
    if "rpn" not in config:
        raise UserError(
            f"{place}: holds a Fast R-CNN, which has no RPN and looks at given proposals alone; "
            "evaluate it, or detect in a prepared split (--split), with config.data.proposals.eval"
        )


def load_trained(
    config: ConfigDict, place: pathlib.Path, step: int | str | None = None
) -> tuple[Detector, dict, int | None]:
    """Returns the detector, its trained variables on all local devices, and their step.

    `place` is the folder of a run, or a model file; an imported file has the step None. `step`
    chooses a checkpoint of a run, by default the newest; "best" is that of its best validation.

    Raises:
        UserError: the folder holds no checkpoint (of that step), the file cannot be read or has no
            head, or the variables are of another network than the config's.
    """
    if step == "best":
        step = best_kept_step(place, saved_steps(place))
    detector = build_detector(config)
    network = detector.network
    if not place.is_dir():
        return detector, *_read_variables(place, variable_shapes(network))
    checkpoints = Checkpoints(place, read_only=True)
    _, optimizer = build_optimizer(config)
    state = checkpoints.restore(state_shapes(config, network, optimizer), step)
    checkpoints.close()
    return detector, evaluation_variables(state), int(state.step)


def _read_variables(path: pathlib.Path, expected) -> tuple[dict, int | None]:
    """Returns the variables of a model file on all local devices, and their step."""
    model = read_model(path)
    if not {"rpn", "box"} & model.collections.get("params", {}).keys():
        raise UserError(
            f"{path}: holds a backbone alone, which proposes nothing; train a head on it: "
            f"rpn-jax train --config.model.pretrained={path} …"
        )
    check_fits(path, model.collections, expected)
    return devices.replicate({"batch_stats": {}, **model.collections}), model.step
