"""Dense sliding windows as stored proposals: every anchor of a config on every image of a split.

A `fast_rcnn` on them is the one-stage detector of the paper's section 4.1.
"""

import pathlib

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from rpn_jax.data.transforms import rescale, resized_hw
from rpn_jax.errors import UserError
from rpn_jax.files import check_out, write_npz
from rpn_jax.ops.anchors import centred_in_image
from rpn_jax.training.build import build_network
from rpn_jax.training.evaluate import buckets
from rpn_jax.training.splits import open_split, with_known_classes
from rpn_jax.training.stages import proposal_stage


def write_windows(config: ConfigDict, path: pathlib.Path, split: str | None = None) -> str:
    """Writes the anchors of a split's images as proposals of equal score; returns a line about it.

    They are the anchors whose centre is in the image, clipped to it, in pixels of the original.
    `split` is the training split by default.

    Raises:
        UserError: the config has no anchors, the split is not prepared, or the file is no `.npz` or
            cannot be written.
    """
    check_anchors(config)
    if path.suffix != ".npz":
        raise UserError(f"--write={path}: give a file that ends in .npz")
    check_out(path, flag="--write")
    dataset = open_split(config, split or config.data.train_split, needs_masks=False)
    network, stage = build_network(with_known_classes(config)), proposal_stage(config)
    canvases = buckets(config, dataset)
    anchors = [
        np.concatenate(stage.anchors(network, height, width)) for height, width in canvases.canvases
    ]
    sides = {"shorter_side": config.data.shorter_side, "longer_side": config.data.longer_side}
    images, windows = dataset.images(), []
    for image, canvas in zip(images, canvases.of_example.tolist(), strict=True):
        hw = resized_hw(image.height, image.width, **sides)
        windows.append(rescale(_windows(anchors[canvas], hw), hw, (image.height, image.width)))
    counts = np.array(list(map(len, windows)))
    write_npz(
        path,
        image_ids=np.array([image.id for image in images]),
        file_names=np.array([image.filename for image in images]),
        pixels=np.array(dataset.pixels or ""),
        counts=counts,
        boxes=np.concatenate(windows),
        scores=np.ones(counts.sum(), np.float32),
    )
    return (
        f"{dataset.name} {dataset.split}: {counts.min()} to {counts.max()} windows on each of "
        f"{len(images)} images\nwrote {path}"
    )


def _windows(anchors: Float[np.ndarray, "A 4"], hw: tuple[int, int]) -> Float[np.ndarray, "W 4"]:
    height, width = hw
    inside = np.asarray(centred_in_image(anchors, height, width))
    return np.clip(anchors[inside], 0, np.array([[width, height] * 2], np.float32))


def check_anchors(config: ConfigDict) -> None:
    """Raises a `UserError` unless a config has anchors."""
    if "rpn" not in config:
        raise UserError(
            f"config.detector: a {config.detector} has no anchors; give the config of an RPN"
        )
