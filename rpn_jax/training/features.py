"""Feature cache: a frozen backbone's features of each image, computed once and kept on disk.

If every stage of the backbone is frozen, a step runs the head alone, a small part of the
arithmetic. All runs on the same data, such as those of a sweep, share the files.
"""

import functools
import hashlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rpn_jax.errors import UserError, first_line
from rpn_jax.files import clear_partial, replacing
from rpn_jax.models.backbones.resnet import STAGES
from rpn_jax.models.inputs import input_convention, normalize_images
from rpn_jax.models.rcnn import RCNN, trainable_mask, variable_shapes
from rpn_jax.parts import hash_part, is_import_path
from rpn_jax.training.build import frozen_paths
from rpn_jax.typing import Images


def trains_backbone(config: ConfigDict, network: RCNN) -> bool:
    """Returns whether any parameter of the backbone is trained."""
    params = variable_shapes(network)["params"]
    mask = trainable_mask({"backbone": params["backbone"]}, frozen_paths(config))
    return any(jax.tree.leaves(mask))


def check_features(config: ConfigDict, network: RCNN) -> None:
    """Raises a `UserError` if `config.data.cache_features` is set and features would change."""
    if not config.data.cache_features:
        return
    if trains_backbone(config, network):
        stages = STAGES.index(network.backbone.output_stages[-1]) + 1
        raise UserError(
            f"config.data.cache_features: {config.model.frozen_stages} stages of the backbone are "
            f"frozen and the others change; freeze all: --config.model.frozen_stages={stages}"
        )
    for field, value in (
        ("data.jitter.scales", config.data.jitter.scales),
        ("data.augmentations", config.data.augmentations),
    ):
        if value:
            raise UserError(
                f"config.data.cache_features: with config.{field} no image looks the same twice; "
                "leave out one of the two"
            )
    if config.model.norm == "sync_batch_norm":
        raise UserError(
            "config.data.cache_features: the statistics of sync_batch_norm are those of each "
            "batch; give config.model.norm=frozen_batch_norm or group_norm"
        )


class FeatureCache:
    """Adds the backbone's features to a batch, if the config says so.

    An image's file is named by a hash of its canvas and size. The folder is named by a hash of the
    backbone's fields and weights, the version of JAX and the kind of device, and of the code where
    the backbone is one's own. The code here is not part of it: after a change of it, delete the
    folder `features` of `config.data.data_dir`.
    """

    def __init__(self, config: ConfigDict, network: RCNN, variables):
        """`variables` are the network's, whatever devices they are on."""
        self._is_used = config.data.cache_features
        if not self._is_used:
            return
        backbone = jax.device_get(
            {name: tree["backbone"] for name, tree in variables.items() if "backbone" in tree}
        )
        convention = input_convention(config.model.input_convention)

        @jax.jit
        def features_of(variables, image, image_hw):
            pixels = normalize_images(image[None], image_hw[None], convention)
            features = network.backbone.apply(variables, pixels)
            return tuple(level[0].astype(jnp.float32) for level in features)

        self._features_of = functools.partial(features_of, jax.device_put(backbone))
        facts = network.backbone, convention, jax.__version__, jax.local_devices()[0].device_kind
        if is_import_path(name := config.model.backbone):
            facts = *facts, hash_part(name)
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=8)
        for leaf in jax.tree.leaves(backbone):
            digest.update(np.ascontiguousarray(leaf))
        data_dir = pathlib.Path(config.data.data_dir).expanduser()
        self._folder = data_dir / "features" / digest.hexdigest()
        for part in self._folder.glob("*"):
            clear_partial(part)

    def add(self, batch: Images) -> Images:
        """Returns the host batch with its images' features, (B, H_l, W_l, C) for each level.

        The backbone runs on new images alone, and their features are written to files.
        """
        if not self._is_used:
            return batch
        levels = map(self._of_image, batch.images, batch.image_hw)
        return batch._replace(features=tuple(map(np.stack, zip(*levels, strict=True))))

    def _of_image(self, image: np.ndarray, image_hw: np.ndarray) -> tuple[np.ndarray, ...]:
        facts = str((image.shape, *image_hw.tolist())).encode()
        name = hashlib.blake2b(image.tobytes() + facts, digest_size=16).hexdigest()
        path = self._folder / name[:2] / f"{name}.npz"
        if path.is_file():
            try:
                with np.load(path) as file:
                    return tuple(file.values())
            except Exception as error:  # damaged files may raise anything
                reason = first_line(error)
                print(f"{path}: damaged ({reason}), and computed again", file=sys.stderr)
        levels = jax.device_get(self._features_of(image, image_hw))
        try:
            with replacing(path) as file:
                np.savez(file, *levels)
        except OSError as error:
            raise UserError(
                f"{self._folder}: {error.strerror}; make room there, or leave out "
                "config.data.cache_features"
            ) from error
        return levels
