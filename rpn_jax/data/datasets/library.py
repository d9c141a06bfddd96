"""Where prepared datasets lie, how they are made, and how their records are read."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.data.datasets import tfds_catalogue
from rpn_jax.data.datasets.builders import (
    Audit,
    CocoJson,
    Shapes,
    SourceBuilder,
    SourceConfig,
    VocFolder,
    quiet_tfds,
)
from rpn_jax.data.datasets.coco_json import read_coco_json
from rpn_jax.data.datasets.report import PreparationReport
from rpn_jax.data.datasets.shapes import read_shapes
from rpn_jax.data.datasets.source import CheckedExample, Example, Source, check_boxes
from rpn_jax.data.datasets.stored import INFO, METADATA, PREPARE, Records, load_json, open_builder
from rpn_jax.data.datasets.voc_folder import read_voc_folder
from rpn_jax.data.transforms import decode_image
from rpn_jax.errors import UserError, list_some

# Our builders have TFDS write METADATA; beside its own datasets we put a file of our own.
_INDEX = "rpn_jax_index.json"
Path = str | os.PathLike[str]


class _Kind(NamedTuple):
    """How a dataset of ours is made; one with a folder has it as the reader's first argument."""

    builder: type[SourceBuilder]
    read: Callable[..., Source]
    has_folder: bool
    options: tuple[str, ...]


_OURS = {
    "shapes": _Kind(Shapes, read_shapes, False, ("seed", "image_size", "num_train", "num_test")),
    "voc_folder": _Kind(VocFolder, read_voc_folder, True, ("splits",)),
    "coco_json": _Kind(CocoJson, read_coco_json, True, ("splits",)),
}
_CATALOGUE = tfds_catalogue.EXAMPLE_OF


class Record(NamedTuple):
    """One annotated image; boxes are x1, y1, x2, y2 in continuous pixels of the original image.

    All boxes have an area and lie within the image. `ignore` marks regions that are neither object
    nor background (VOC difficult, COCO crowd). `areas` are those of the boxes, for COCO those of
    the masks.
    """

    image_bytes: bytes
    filename: str
    image_id: int
    height: int
    width: int
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    ignore: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]


class Dataset:
    """One split, with random access; indexing is thread-safe and decodes no pixels.

    Attributes:
      name: as given to `open_dataset`.
      split: the same.
      class_names: name of each label.
      heights: of the original images, known without reading them.
      widths: the same.
      num_objects: boxes of each image, ignore regions included.
      fingerprint: a hash of the file names, ids, boxes, labels and ignore flags.
    """

    class_names: tuple[str, ...]
    heights: Int[np.ndarray, " N"]
    widths: Int[np.ndarray, " N"]
    num_objects: Int[np.ndarray, " N"]
    fingerprint: str

    def __init__(self, name: str, split: str, directory: pathlib.Path, index: Mapping[str, Any]):
        self.name = name
        self.split = split
        self.class_names = tuple(index["class_names"])
        known = index["splits"][split]
        self.heights = np.array(known["heights"], np.int64)
        self.widths = np.array(known["widths"], np.int64)
        self.num_objects = np.array(known["num_objects"], np.int64)
        self.fingerprint = known["fingerprint"]
        self._records = Records(directory, split)

    def __len__(self) -> int:
        return len(self.heights)

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = range(len(self))[index]  # negative and out-of-range indices as in a list
        height, width = int(self.heights[index]), int(self.widths[index])
        features = self._records[index]
        if self.name in _CATALOGUE:
            example = _CATALOGUE[self.name](features, height, width)
            example = check_boxes(example, height, width).example
        else:
            example = _stored_example(features)
        return Record(
            image_bytes=example.image,
            filename=example.filename,
            image_id=example.image_id,
            height=height,
            width=width,
            boxes=example.boxes,
            labels=example.labels,
            ignore=example.ignore,
            areas=example.areas,
        )


def open_dataset(
    name: str, split: str, *, data_dir: Path, source: Path | None = None, **options: Any
) -> Dataset:
    """Returns a split of a prepared dataset.

    Args:
      name: see the package's docstring.
      split: one of those that were prepared.
      data_dir: where datasets are prepared, as in TFDS.
      source: the folder that it was prepared from, for `voc_folder` and `coco_json`. The folder
        itself need not be there any more.
      **options: those that it was prepared with.

    Raises:
      UserError: it is not prepared, or only from another source, or has no such split.
    """
    data_dir = pathlib.Path(data_dir).expanduser()
    directory = _directory(name, data_dir, source, options)
    if directory is None or not (directory / INFO).is_file():
        raise UserError(_not_prepared(name, data_dir, source))
    index = (
        _catalogue_index(name, directory) if name in _CATALOGUE else load_json(directory / METADATA)
    )
    if split not in index["splits"]:
        raise UserError(
            f"{name}: there is no split {split!r}; there are: {list_some(index['splits'])}"
        )
    return Dataset(name, split, directory, index)


def prepare_dataset(
    name: str, *, data_dir: Path, source: Path | None = None, skip_bad: bool = False, **options: Any
) -> PreparationReport:
    """Makes a dataset ready for `open_dataset`: decodes every image, checks every box, writes.

    What is prepared already is left alone, and its report returned.

    Args:
      name: see the package's docstring.
      data_dir: where to write.
      source: the folder to read, for `voc_folder` and `coco_json`.
      skip_bad: leave out, and report, what else would raise: images that are missing or do not
        decode, annotations that cannot be read, boxes that are not numbers.
      **options: see the package's docstring.

    Raises:
      UserError: anything wrong with the arguments or the files; also when the annotations have
        changed since the dataset was prepared, as replacing it is for the user to decide.
    """
    data_dir = pathlib.Path(data_dir).expanduser()
    directory = _directory(name, data_dir, source, options)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{data_dir}: cannot hold datasets ({error.strerror})") from error
    if name in _CATALOGUE:
        if directory is None:
            tfds_catalogue.download(name, data_dir)
            directory = tfds_catalogue.find_directory(name, data_dir)
        already = (directory / _INDEX).is_file()
        report = _report(directory, _catalogue_index(name, directory))
        return dataclasses.replace(report, already_prepared=already)
    kind = _OURS[name]
    origin = _absolute(source) if kind.has_folder else None
    folder = {"folder": origin, "skip_bad": skip_bad} if kind.has_folder else {}
    read = kind.read(**folder, **options)

    if (directory / INFO).is_file():
        stored = load_json(directory / METADATA)
        if stored["annotations"] != read.digest:
            raise UserError(
                f"{directory}: the annotations in {origin} have changed since this was prepared; "
                "remove the directory and prepare again"
            )
        return dataclasses.replace(_report(directory, stored), already_prepared=True)

    config = SourceConfig(name=directory.parent.name, source=read, origin=origin, skip_bad=skip_bad)
    with quiet_tfds():
        kind.builder(data_dir=data_dir, config=config).download_and_prepare(
            file_format="array_record"
        )
    return _report(directory, load_json(directory / METADATA))


def _absolute(folder: Path) -> str:
    return os.path.abspath(os.path.expanduser(folder))


def _report(directory: pathlib.Path, index: Mapping[str, Any]) -> PreparationReport:
    report = PreparationReport.from_dict(index["report"])
    return dataclasses.replace(report, directory=str(directory))


def _directory(
    name: str, data_dir: pathlib.Path, source: Path | None, options: Mapping[str, Any]
) -> pathlib.Path | None:
    """Returns where the dataset lies or would lie; None for a catalogue's that is not there.

    The name of the directory is readable, and the hash in it tells sources and options apart.
    """
    if name not in _OURS and name not in _CATALOGUE:
        known = list_some([*_OURS, *_CATALOGUE])
        raise UserError(f"dataset {name!r} is not known; there are: {known}")
    kind = _OURS.get(name)
    allowed = kind.options if kind else ()
    unknown = [option for option in options if option not in allowed]
    if unknown:
        has = f"it has: {', '.join(allowed)}" if allowed else "it has none"
        raise UserError(f"dataset {name}: no option {', '.join(unknown)}; {has}")
    if (source is not None) != bool(kind and kind.has_folder):
        need = "needs `source`, the folder to read" if source is None else "takes no `source`"
        raise UserError(f"dataset {name}: {need}")
    if kind is None:
        return tfds_catalogue.find_directory(name, data_dir)
    origin = _absolute(source) if source else None
    stem = re.sub(r"\W+", "_", os.path.basename(origin)) if origin else name
    identity = json.dumps([origin, dict(options)], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return data_dir / name / f"{stem}-{digest}" / str(kind.builder.VERSION)


def _not_prepared(name: str, data_dir: pathlib.Path, source: Path | None) -> str:
    others = [
        load_json(path.parent / METADATA)["source"]
        for path in (data_dir / name).glob("*/*/dataset_info.json")
        if (path.parent / METADATA).is_file()
    ]
    others = sorted({other for other in others if other})
    origin = f" from {_absolute(source)}" if source else ""
    elsewhere = f" (what is there was prepared from {list_some(others)})" if others else ""
    return (
        f"{data_dir}: dataset {name}{origin} with these options is not prepared there{elsewhere}; "
        f"run {PREPARE}"
    )


def _catalogue_index(name: str, directory: pathlib.Path) -> dict[str, Any]:
    """Returns the index of a catalogue's dataset, making it (once, by decoding all) if need be."""
    if (directory / _INDEX).is_file():
        return load_json(directory / _INDEX)
    info = open_builder(directory).info
    audit = Audit(name, None, info.features["objects"].feature["label"].names)

    def read(features: Any, i: int) -> CheckedExample:
        record = features[i]
        height, width = decode_image(record["image"], record["image/filename"].decode()).shape[:2]
        return check_boxes(_CATALOGUE[name](record, height, width), height, width)

    for split in info.splits:
        features = Records(directory, split)
        readers = [functools.partial(read, features, i) for i in range(len(features))]
        for _ in audit.check(split, readers):
            pass
    with contextlib.suppress(OSError):  # a read-only data_dir is indexed at each opening
        partial = directory / f"{_INDEX}.{os.getpid()}"
        partial.write_text(json.dumps(audit.index()))
        partial.replace(directory / _INDEX)
    return audit.index()


def _stored_example(features: Mapping[str, Any]) -> Example:
    objects = features["objects"]
    return Example(
        image=features["image"],
        filename=features["image/filename"].decode(),
        image_id=int(features["image/id"]),
        boxes=objects["boxes"],
        labels=np.asarray(objects["label"], np.int64),
        ignore=objects["ignore"],
        areas=objects["area"],
        declared_hw=None,
    )
