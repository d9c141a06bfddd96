"""Detection datasets that TFDS knows itself, by their TFDS names.

Preparing them needs TensorFlow (TFDS's own code imports it); reading them does not. They must be in
ArrayRecord files, which have random access.
"""

import importlib.util
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rpn_jax.data.datasets.source import Example
from rpn_jax.errors import UserError


def voc_example(features: Mapping[str, Any], height: int, width: int) -> Example:
    """Returns an example of `voc/…` as it would come out of the original folder.

    TFDS divides VOC's coordinates, which count from 1, by the size of the image. Multiplying by
    it again and rounding gives back the number in the XML.
    """
    objects = features["objects"]
    x1, y1, x2, y2 = _pixels(objects["bbox"], height, width).T
    return Example(
        image=features["image"],
        filename=features["image/filename"].decode(),
        image_id=int("".join(c for c in features["image/filename"].decode() if c.isdigit()) or 0),
        boxes=np.stack([x1 - 1, y1 - 1, x2, y2], axis=1),
        labels=np.asarray(objects["label"], np.int64),
        ignore=np.asarray(objects["is_difficult"], bool),
        areas=None,
        declared_hw=None,
    )


def coco_example(features: Mapping[str, Any], height: int, width: int) -> Example:
    """Returns an example of `coco/…`; areas are those of the masks."""
    objects = features["objects"]
    return Example(
        image=features["image"],
        filename=features["image/filename"].decode(),
        image_id=int(features["image/id"]),
        boxes=_pixels(objects["bbox"], height, width),
        labels=np.asarray(objects["label"], np.int64),
        ignore=np.asarray(objects["is_crowd"], bool),
        areas=np.asarray(objects["area"], np.float64),
        declared_hw=None,
    )


def _pixels(bbox: Any, height: int, width: int) -> np.ndarray:
    """Returns x1, y1, x2, y2 in pixels of TFDS's fractions ymin, xmin, ymax, xmax.

    Rounding to 1/1000 undoes the float32 of the fractions, which is off by up to 3e-5 pixel.
    """
    y1, x1, y2, x2 = np.asarray(bbox, np.float64).reshape(-1, 4).T
    return np.round(np.stack([x1 * width, y1 * height, x2 * width, y2 * height], axis=1), 3)


EXAMPLE_OF: Mapping[str, Callable[[Mapping[str, Any], int, int], Example]] = {
    "voc/2007": voc_example,
    "voc/2012": voc_example,
    "coco/2017": coco_example,
}


def download(name: str, data_dir: pathlib.Path) -> None:
    """Lets TFDS download and write the dataset as ArrayRecord files, which can take hours."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{name}: TFDS prepares it with TensorFlow, which is not installed; "
            "pip install 'rpn-jax[tfds-prepare]' (reading it later needs no TensorFlow)"
        )
    tfds.builder(name, data_dir=data_dir).download_and_prepare(file_format="array_record")


def find_directory(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """Returns the directory of the newest prepared version, or None."""
    versions = (data_dir / name).glob("*.*.*/dataset_info.json")
    return max(
        (info.parent for info in versions),
        key=lambda d: tuple(int(n) if n.isdigit() else 0 for n in d.name.split(".")),
        default=None,
    )
