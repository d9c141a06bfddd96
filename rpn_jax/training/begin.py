"""What a run begins with: its config and data, all checked, its detector, and its first state."""

import pathlib
from typing import NamedTuple

import numpy as np
import optax
from ml_collections import ConfigDict

from rpn_jax.data.augmentation import (
    BUILT_IN,
    Augmentation,
    Own,
    build_augmentations,
    decoded,
)
from rpn_jax.data.datasets import Dataset
from rpn_jax.data.loader import num_slots
from rpn_jax.detectors.detector import Detector
from rpn_jax.errors import UserError
from rpn_jax.loggers import find_logger
from rpn_jax.runs import devices
from rpn_jax.runs.fields import check_config
from rpn_jax.training.build import (
    build_detector,
    load_pretrained,
    new_state,
    state_shapes,
)
from rpn_jax.training.checkpoint import Checkpoints, checkpoints_folder
from rpn_jax.training.features import check_features
from rpn_jax.training.fork import check_fork, forked_state
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.splits import (
    check_batch_size,
    open_split,
    open_training,
    with_classes,
    with_classes_of_run,
    with_proposals,
)
from rpn_jax.training.state import TrainState
from rpn_jax.weights.loading import Pretrained


class Run(NamedTuple):
    """A training before its first step."""

    config: ConfigDict
    train_set: Dataset
    eval_set: Dataset | None
    detector: Detector
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    pretrained: Pretrained | None

    def forked(self) -> TrainState | None:
        """Returns the state of the run that this one goes on from, None if it is no fork."""
        shapes = state_shapes(self.config, self.detector.network, self.optimizer)
        return forked_state(self.config, shapes)

    def state(self, checkpoints: Checkpoints, forked: TrainState | None) -> TrainState:
        """Returns the newest state in the folder, else that of the fork, else a new one.

        That of a fork is saved, so that the run needs the other's folder no more.
        """
        first = forked or new_state(
            self.config, self.detector.network, self.optimizer, self.pretrained
        )
        first = devices.replicate(first)
        if newest := checkpoints.restore_newest(first):
            return newest
        # The checkpoints that were there when it was not read may all be damaged.
        if forked := forked or self.forked():
            checkpoints.save(forked)
        return forked or first


def check_run(config: ConfigDict, workdir: pathlib.Path) -> Run:
    """Returns the run of a config in a work folder, of which nothing is written or compiled.

    Raises:
        UserError: the config is impossible, or what it names is not there.
    """
    checkpoints_folder(workdir)
    check_config(config)
    check_validates(config)
    for name in config.loggers:
        find_logger(name)
    check_batch_size("config.batch_size", config.batch_size, config.accumulation)
    config = with_classes_of_run(config, workdir)
    train_set = open_training(config)
    config = with_classes(config, train_set)
    train_set = with_proposals(config, train_set, "train")
    eval_set = None
    if config.evaluation.every:
        eval_set = open_split(config, config.data.eval_split, needs_objects=True)
        eval_set = with_proposals(config, eval_set, "eval")
    for dataset in filter(None, (train_set, eval_set)):
        num_slots(dataset, config.data.max_objects)
    _try_augmentations(config, train_set)
    detector = build_detector(config)
    schedule, optimizer = build_optimizer(config)
    check_fork(config, workdir)
    pretrained = None if config.fork.run else load_pretrained(config, detector.network)
    check_features(config, detector.network)
    return Run(config, train_set, eval_set, detector, schedule, optimizer, pretrained)


def training_augmentations(config: ConfigDict, dataset: Dataset) -> list[Augmentation]:
    """Returns what is done to each image of a training on `dataset`, in this order."""
    data = config.data
    fields = {name: data[name].to_dict() for name in BUILT_IN}
    classes = len(dataset.class_names)
    return build_augmentations("config.data.augmentations", data.augmentations, fields, classes)


def _try_augmentations(config: ConfigDict, dataset: Dataset) -> None:
    """Raises a `UserError` unless those of one's own do with the first image what they should."""
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    for augmentation in training_augmentations(config, dataset):
        if isinstance(augmentation, Own):
            sample = decoded(dataset[0], *nothing, with_masks="mask" in config)
            augmentation(sample, np.random.default_rng(config.seed))


def check_validates(config: ConfigDict) -> None:
    """Raises a `UserError` if the config asks for the best of no validations."""
    if config.evaluation.every:
        return
    for name, value, off in (
        ("checkpoint.keep_best", config.checkpoint.keep_best, False),
        ("evaluation.patience", config.evaluation.patience, None),
    ):
        if value:
            raise UserError(
                f"config.{name}={value}: is of validations, but config.evaluation.every=0 makes "
                f"none; give every how many steps, or config.{name}={off}"
            )
