"""Prepared datasets on disk, as TFDS lays them out; their files may be damaged, or from anyone."""

import bisect
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from rpn_jax.errors import UserError, first_line

PREPARE = "rpn-jax prepare --config=…"
INFO, FEATURES, METADATA = "dataset_info.json", "features.json", "metadata.json"
# TFDS imports the module of any class that its files name, which runs that module's code.
_FEATURES = {
    f"{feature.__module__}.{feature.__name__}"
    for feature in (
        tfds.features.BBoxFeature,
        tfds.features.ClassLabel,
        tfds.features.FeaturesDict,
        tfds.features.Image,
        tfds.features.Scalar,
        tfds.features.Sequence,
        tfds.features.Tensor,
        tfds.features.Text,
    )
}
# Keys under which a class is named ("type" before TFDS 4.5), or another file to read.
_NAMING_KEYS = ("pythonClassName", "python_class_name", "type", "names_file")
_JSON_KEY = "json"  # what stands there is a text that TFDS reads as JSON again


class DamagedError(UserError):
    """A file of a prepared dataset is missing or broken; preparing the dataset again mends it."""

    def __init__(self, file: pathlib.Path, reason: object):
        super().__init__(
            f"{file}: the prepared dataset is damaged ({reason}); to mend it run {PREPARE}"
        )
        self.file = file


def load_json(file: pathlib.Path) -> Any:
    """Returns the content of a file of a prepared dataset."""
    if not file.is_file():  # a pipe would be waited for
        raise DamagedError(file, "the file is missing")
    try:
        return json.loads(file.read_bytes())
    except (OSError, RecursionError, ValueError) as error:
        raise DamagedError(file, first_line(error)) from error


def load_index(file: pathlib.Path) -> dict[str, Any]:
    """Returns the content of the file that says what is in a prepared dataset."""
    index = load_json(file)
    if not isinstance(index, dict) or not isinstance(index.get("splits"), dict):
        raise DamagedError(file, "it names no splits")
    return index


def open_builder(directory: pathlib.Path) -> tfds.core.DatasetBuilder:
    """Returns TFDS's reader of a dataset.

    Raises:
      UserError: a file names a class other than TFDS's features of images and boxes, or another
        file; nothing was imported.
      DamagedError: a file is missing or broken.
    """
    for name in (FEATURES, INFO):
        _check_names(directory / name)
    for file in directory.iterdir():
        if not file.is_file() and not file.is_dir():  # TFDS reads names of labels, too
            raise DamagedError(file, "it is no regular file")
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # of many kinds: TFDS's, protobuf's and Python's
        raise DamagedError(directory / INFO, first_line(error)) from error


def _check_names(file: pathlib.Path) -> None:
    content = load_json(file)
    try:
        names = set(_names(content))
    except (RecursionError, ValueError) as error:
        raise DamagedError(file, first_line(error)) from error
    if unknown := names - _FEATURES:
        raise UserError(
            f"{file}: names {sorted(unknown)[0]!r}, which is no feature of a dataset that is "
            "prepared here; it is not opened, because that could run foreign code or read other "
            "files"
        )


def _names(value: Any) -> Iterator[str]:
    """Yields what stands, at any depth, where TFDS takes a text for a class or a file."""
    if isinstance(value, list):
        for inner in value:
            yield from _names(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, str):
                if key in _NAMING_KEYS:
                    yield inner
                elif key == _JSON_KEY:
                    inner = json.loads(inner)
            yield from _names(inner)


class Records:
    """The records of a split, with random access; images stay encoded."""

    def __init__(self, directory: pathlib.Path, split: str):
        builder = open_builder(directory)
        info = builder.info
        if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            raise UserError(
                f"{directory}: prepared as {info.file_format.value}, which has no random access; "
                f"prepare it into another data_dir: {PREPARE}"
            )
        if split not in info.splits:
            raise DamagedError(directory / INFO, f"split {split} is missing")
        shards = info.splits[split]
        self._files = [pathlib.Path(file) for file in shards.filepaths]
        self._ends = list(itertools.accumulate(shards.shard_lengths))
        for file, length in zip(self._files, shards.shard_lengths, strict=True):
            _check_records(file, length)
        self._records = builder.as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self._records[index]
        except Exception as error:  # of ArrayRecord's, TFDS's and protobuf's many kinds
            file = self._files[bisect.bisect_right(self._ends, index)]
            raise DamagedError(file, first_line(error)) from error


def _check_records(file: pathlib.Path, length: int) -> None:
    """Raises `DamagedError` if a record file is missing or was cut short; reads no record."""
    if not file.is_file():
        raise DamagedError(file, "the file is missing")
    try:
        found = ArrayRecordReader(str(file)).num_records()
    except RuntimeError as error:
        raise DamagedError(file, first_line(error)) from error
    if found != length:
        raise DamagedError(file, f"it holds {found} of {length} records")
