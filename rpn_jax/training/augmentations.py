"""The augmentations that a config names: built, and those of one's own tried before a training."""

from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.data.augmentation import Augmentation, Color, Crop, Own, decoded
from rpn_jax.data.datasets import Dataset
from rpn_jax.parts import check_call, import_part, is_import_path

_FIELD = "config.data.augmentations"
# By their names in a config.
AUGMENTATIONS: Mapping[str, Callable[[ConfigDict], Augmentation]] = {
    "crop": lambda config: Crop(**config.data.crop),
    "color": lambda config: Color(**config.data.color),
}


def build_augmentations(config: ConfigDict, dataset: Dataset) -> list[Augmentation]:
    """Returns the augmentations of a training on `dataset`, in their order.

    Raises:
        UserError: an import path names nothing that can be called with a sample and a generator.
    """
    return [
        _own(name, dataset) if is_import_path(name) else AUGMENTATIONS[name](config)
        for name in config.data.augmentations
    ]


def _own(path: str, dataset: Dataset) -> Own:
    function = import_part(_FIELD, path)
    check_call(_FIELD, path, function, "sample", "rng")
    return Own(_FIELD, path, function, len(dataset.class_names))


def check_augmentations(config: ConfigDict, dataset: Dataset) -> None:
    """Raises a `UserError` unless those of one's own do with the first image what they should."""
    own = [one for one in build_augmentations(config, dataset) if isinstance(one, Own)]
    for augmentation in own:
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        sample = decoded(dataset[0], *nothing, with_masks="mask" in config)
        augmentation(sample, np.random.default_rng(config.seed))
