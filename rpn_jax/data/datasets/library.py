"""Where prepared datasets lie, how they are made, and how their records are read."""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rpn_jax.data.datasets import tfds_catalogue
from rpn_jax.data.datasets.builders import (
    CocoJson,
    Own,
    Shapes,
    SourceBuilder,
    SourceConfig,
    VocFolder,
    Yolo,
)
from rpn_jax.data.datasets.coco_json import read_coco_json
from rpn_jax.data.datasets.dataset import Dataset
from rpn_jax.data.datasets.own import check_source
from rpn_jax.data.datasets.preparing import claimed, first_change, has_leftovers, write
from rpn_jax.data.datasets.report import PreparationReport
from rpn_jax.data.datasets.shapes import read_shapes
from rpn_jax.data.datasets.source import Example, Finding, Source
from rpn_jax.data.datasets.stored import INFO, METADATA, PREPARE, DamagedError, load_index
from rpn_jax.data.datasets.voc_folder import read_voc_folder
from rpn_jax.data.datasets.yolo import read_yolo
from rpn_jax.errors import UserError, first_line, list_some
from rpn_jax.parts import check_call, import_part, is_import_path, running, wrong_part
from rpn_jax.text import printable

Path = str | os.PathLike[str]
_FIELD = "config.data.dataset"


class _Kind(NamedTuple):
    """How a dataset is made that the catalogue has not; `folder` is of the reader."""

    builder: type[SourceBuilder]
    read: Callable[..., Source]
    has_folder: bool
    options: tuple[str, ...]


_OURS = {
    "shapes": _Kind(Shapes, read_shapes, False, ("seed", "image_size", "num_train", "num_test")),
    "voc_folder": _Kind(
        VocFolder, read_voc_folder, True, ("splits", "orientation", "first_pixel", "outside")
    ),
    "coco_json": _Kind(CocoJson, read_coco_json, True, ("splits", "orientation", "outside")),
    "yolo": _Kind(Yolo, read_yolo, True, ("splits", "outside")),
}
_CATALOGUE = tfds_catalogue.EXAMPLE_OF


def open_dataset(
    name: str, split: str, *, data_dir: Path, source: Path | None = None, **options: Any
) -> Dataset:
    """Returns a split of a prepared dataset.

    Args:
      name: see the package's docstring.
      split: one of those that were prepared.
      data_dir: where datasets are prepared, as in TFDS.
      source: the folder that it was prepared from, for `voc_folder`, `coco_json` and `yolo`. The
        folder itself need not be there any more.
      **options: those that it was prepared with.

    Raises:
      UserError: it is not prepared, or only from another source, or has no such split.
    """
    data_dir = _expanded(data_dir)
    directory = _directory(name, data_dir, source, options)
    if directory is None or not directory.is_dir():
        raise UserError(_not_prepared(name, data_dir, source))
    file, index = _index(name, directory)
    if split not in index["splits"]:
        raise UserError(
            f"{name}: there is no split {split!r}; there are: {list_some(index['splits'])}"
        )
    read = functools.partial(tfds_catalogue.checked_example, name)
    return Dataset(name, split, file, index, read if name in _CATALOGUE else _stored_example)


def prepare_dataset(
    name: str,
    *,
    data_dir: Path,
    source: Path | None = None,
    skip_bad: bool = False,
    anew: bool = False,
    **options: Any,
) -> PreparationReport:
    """Makes a dataset ready for `open_dataset`: decodes every image, checks every box, writes.

    What is prepared already, still fits its source and is undamaged is left alone, and its report
    returned. Where another process is preparing it, that one's end is waited for.

    Args:
      name: see the package's docstring.
      data_dir: where to write.
      source: the folder to read, for `voc_folder`, `coco_json` and `yolo`.
      skip_bad: leave out, and report, what else would raise: images that are missing or do not
        decode, annotations that cannot be read, boxes that are not numbers.
      anew: replace what is prepared already (not of the catalogue).
      **options: see the package's docstring.

    Raises:
      UserError: anything wrong with the arguments or the files; also when images or annotations
        have changed since the dataset was prepared, as replacing it is for the user to decide.
    """
    data_dir = _expanded(data_dir)
    directory = _directory(name, data_dir, source, options)
    if name in _CATALOGUE:
        return _catalogue_report(name, data_dir)
    kind = _kind(name)
    assert kind is not None  # as is all that the catalogue has not
    config = _source_config(name, kind, directory, source, skip_bad, options)
    if not anew and not has_leftovers(directory.parent):
        with contextlib.suppress(DamagedError):
            return _kept_report(name, directory, config)
    with claimed(directory.parent):
        if directory.exists() and not anew:  # another process may have been quicker
            try:
                return _kept_report(name, directory, config)
            except DamagedError as damage:
                what = f"{damage.file}: is damaged; preparing it all again"
                print(printable(what), file=sys.stderr)
        write(kind.builder, config, directory)
    return _report(*_index(name, directory))


def _kind(name: str) -> _Kind | None:
    """Returns how a dataset is made; None for one of the catalogue.

    Raises:
      UserError: there is no such dataset; or the import path names no reader.
    """
    if is_import_path(name):
        return _own_kind(name)
    if name not in _OURS and name not in _CATALOGUE:
        known = list_some([*_OURS, *_CATALOGUE])
        raise UserError(
            f"dataset {name!r} is not known; there are: {known}, and readers of one's own by an "
            "import path, MODULE:NAME"
        )
    return _OURS.get(name)


def _own_kind(path: str) -> _Kind:
    """Returns how a dataset is made whose reader is named by an import path."""
    read = import_part(_FIELD, path)
    try:
        parameters = inspect.signature(read).parameters
    except (TypeError, ValueError) as error:
        why = first_line(error)
        raise wrong_part(_FIELD, path, "is no function that reads a dataset", why) from error
    options = [name for name in parameters if name not in ("folder", "skip_bad")]
    return _Kind(Own, read, "folder" in parameters, (*options, "orientation"))


def _source_config(
    name: str,
    kind: _Kind,
    directory: pathlib.Path,
    source: Path | None,
    skip_bad: bool,
    options: Mapping[str, Any],
) -> SourceConfig:
    """Returns what is to be prepared, its annotations read and its images not yet."""
    options = dict(options)
    orientation = options.pop("orientation", None)
    if orientation not in (None, "shown", "stored"):
        raise UserError(f"option orientation={orientation!r}: give shown or stored")
    origin = _absolute(source) if source is not None else None
    taken = inspect.signature(kind.read).parameters
    given = {"folder": origin, "skip_bad": skip_bad}
    given = {argument: value for argument, value in given.items() if argument in taken} | options
    is_own = is_import_path(name)
    if is_own:
        check_call(_FIELD, name, kind.read, **given)
    try:
        with running(_FIELD, name, reads_files=True) if is_own else contextlib.nullcontext():
            read = kind.read(**given)
    except OSError as error:
        raise UserError(f"{error.filename or origin}: cannot be read ({error.strerror})") from error
    if is_own:
        read = check_source(_FIELD, name, read)
    return SourceConfig(
        name=directory.parent.name,
        dataset=name,
        source=read,
        origin=origin,
        skip_bad=skip_bad,
        orientation=orientation,
        is_drawn=kind.builder is Shapes,
    )


def _catalogue_report(name: str, data_dir: pathlib.Path) -> PreparationReport:
    already = tfds_catalogue.is_indexed(name, data_dir)
    report = _report(*tfds_catalogue.prepare(name, data_dir))
    return dataclasses.replace(report, already_prepared=already)


def _kept_report(name: str, directory: pathlib.Path, config: SourceConfig) -> PreparationReport:
    """Returns the report of what is prepared already.

    Raises:
      DamagedError: a file of it is missing or broken.
      UserError: it does not fit its source any more.
    """
    file, index = _index(name, directory)
    report = _report(file, index)
    splits = config.source.splits
    if set(splits) != set(index["splits"]):
        change = Finding(config.origin or name, f"has the splits {list_some(splits)}")
    else:
        change = first_change(
            config, [Dataset(name, split, file, index, _stored_example) for split in splits]
        )
    if change:
        raise UserError(
            f"{change.file}: has changed since the dataset was prepared ({change.what}); to "
            f"replace what is in {directory}, prepare it again with --anew"
        )
    return dataclasses.replace(report, already_prepared=True)


def _absolute(folder: Path) -> str:
    return os.path.abspath(_expanded(folder))


def _expanded(path: Path) -> pathlib.Path:
    """Returns the path with the user's home folder in place of `~`."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: no home folder is known here; give a path without ~") from error


def _report(file: pathlib.Path, index: Mapping[str, Any]) -> PreparationReport:
    try:
        report = PreparationReport.from_dict(index["report"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(file, f"{type(error).__name__}: {error}") from error
    return dataclasses.replace(report, directory=str(file.parent))


def _index(name: str, directory: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns the file beside the records that says what is in them, and its content."""
    if not (directory / INFO).is_file():
        raise DamagedError(directory / INFO, "the file is missing")
    if name in _CATALOGUE:
        return tfds_catalogue.index(name, directory)
    return directory / METADATA, load_index(directory / METADATA)


def _directory(
    name: str, data_dir: pathlib.Path, source: Path | None, options: Mapping[str, Any]
) -> pathlib.Path | None:
    """Returns where the dataset lies or would lie; None for a catalogue's that is not there.

    The name of the directory is readable, and the hash in it tells sources and options apart.
    """
    kind = _kind(name)
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
    stem = re.sub(r"\W+", "_", os.path.basename(origin)) if origin else _folder(name)
    identity = json.dumps([origin, dict(options)], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return data_dir / _folder(name) / f"{stem}-{digest}" / str(kind.builder.VERSION)


def _folder(name: str) -> str:
    """Returns the folder of a dataset's name; not every file system has colons in names."""
    return name.replace(":", ".")


def _not_prepared(name: str, data_dir: pathlib.Path, source: Path | None) -> str:
    others = set()
    for path in (data_dir / _folder(name)).glob(f"*/*/{METADATA}"):
        with contextlib.suppress(DamagedError):  # that one is of no interest here
            others.add(load_index(path).get("source"))
    others = sorted(filter(None, others))
    origin = f" from {_absolute(source)}" if source else ""
    elsewhere = f" (what is there was prepared from {list_some(others)})" if others else ""
    return (
        f"{data_dir}: dataset {name}{origin} with these options is not prepared there{elsewhere}; "
        f"run {PREPARE}"
    )


def _stored_example(features: Mapping[str, Any], height: int, width: int) -> Example:
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
        masks=list(objects["masks"]) if "masks" in objects else None,
    )
