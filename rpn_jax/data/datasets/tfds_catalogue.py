"""Detection datasets that TFDS knows itself, by their TFDS names.

Preparing them needs TensorFlow (TFDS's own code imports it); reading them does not. They must be in
ArrayRecord files, which have random access.
"""

import contextlib
import functools
import importlib.util
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rpn_jax.data.datasets.builders import Audit
from rpn_jax.data.datasets.preparing import claimed
from rpn_jax.data.datasets.source import CheckedExample, Example, check_boxes
from rpn_jax.data.datasets.stored import DamagedError, Records, load_index, open_builder
from rpn_jax.data.images import decode_image
from rpn_jax.errors import UserError
from rpn_jax.files import replacing

_INDEX = "rpn_jax_index.json"  # our file beside TFDS's
# COCO's own ids of its 80 classes, which TFDS leaves out; ten ids up to 90 have no objects.
_COCO_IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


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


def checked_example(name: str, features: Mapping[str, Any], height: int, width: int) -> Example:
    """Returns an example of the dataset, its boxes clipped to the image."""
    example = EXAMPLE_OF[name](features, height, width)
    return check_boxes(example, height, width).example


def prepare(name: str, data_dir: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """Downloads the dataset if it is not there, and returns its index; see `index`.

    Raises:
      UserError: TensorFlow is missing, or what is there is damaged.
    """
    directory = find_directory(name, data_dir)
    if directory is None:
        with claimed(data_dir / name):
            directory = find_directory(name, data_dir)
            if directory is None:
                download(name, data_dir)
                directory = find_directory(name, data_dir)
    if directory is None:
        raise UserError(
            f"{data_dir / name}: holds no dataset that is whole; remove it and "
            "have it prepared again"
        )
    try:
        file, content = index(name, directory)
        for split in content["splits"]:
            Records(directory, split)
    except DamagedError as damage:
        raise UserError(
            f"{damage.file}: the dataset is damaged; remove {directory} and have it prepared again"
        ) from damage
    return file, content


def download(name: str, data_dir: pathlib.Path) -> None:
    """Lets TFDS download and write the dataset as ArrayRecord files, which can take hours."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{name}: TFDS prepares it with TensorFlow, which is not installed; "
            "pip install 'rpn-jax[tfds-prepare]' (reading it later needs no TensorFlow)"
        )
    tfds.builder(name, data_dir=data_dir).download_and_prepare(file_format="array_record")


def is_indexed(name: str, data_dir: pathlib.Path) -> bool:
    """Returns whether nothing is left to be done for the dataset."""
    directory = find_directory(name, data_dir)
    return directory is not None and (directory / _INDEX).is_file()


def index(name: str, directory: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns the file that says what is in a dataset, and its content.

    It is made once, by decoding all images. Where the disk is read-only it is made each time.
    """
    file = directory / _INDEX
    try:
        return file, _with_ids(name, load_index(file))
    except DamagedError:
        audit = Audit(name, None, _class_names(directory))
        for split in open_builder(directory).info.splits:
            records = Records(directory, split)
            readers = [functools.partial(_read, name, records, i) for i in range(len(records))]
            for _ in audit.check(split, readers):
                pass
        with contextlib.suppress(OSError), replacing(file) as content:
            content.write(json.dumps(audit.index()).encode())
        return file, _with_ids(name, audit.index())


def _with_ids(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Returns the index with the source's own ids of the classes, where they are known."""
    if name.startswith("coco/") and len(content.get("class_names", ())) == len(_COCO_IDS):
        return {**content, "category_ids": list(_COCO_IDS)}
    return content


def _class_names(directory: pathlib.Path) -> list[str]:
    return open_builder(directory).info.features["objects"].feature["label"].names


def _read(name: str, records: Records, i: int) -> CheckedExample:
    features = records[i]
    file = features["image/filename"].decode()
    # TFDS's boxes are in stored pixels.
    height, width = decode_image(features["image"], file, turn=1).shape[:2]
    return check_boxes(EXAMPLE_OF[name](features, height, width), height, width)


def find_directory(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """Returns the directory of the newest prepared version, or None."""
    versions = (data_dir / name).glob("*.*.*/dataset_info.json")
    return max(
        (info.parent for info in versions),
        key=lambda d: tuple(int(n) if n.isdigit() else 0 for n in d.name.split(".")),
        default=None,
    )
