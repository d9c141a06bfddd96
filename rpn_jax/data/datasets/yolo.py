"""Any folder in the layout of YOLO (Ultralytics, Roboflow, Darknet), as a TFDS dataset.

    FOLDER/data.yaml   FOLDER/images/SPLIT/NAME.jpg   FOLDER/labels/SPLIT/NAME.txt
    FOLDER/obj.data    FOLDER/obj_train_data/NAME.jpg FOLDER/obj_train_data/NAME.txt

See `rpn_jax.data.annotations.yolo_files` for what these hold. The labels of an image lie where its
path has `labels` for the last `images`, or else beside it. Without such a file it has no objects.
Fractions are of the pixels shown, as Ultralytics has them.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rpn_jax.data.annotations.fields import FieldError
from rpn_jax.data.annotations.image_files import Files
from rpn_jax.data.annotations.overlaps import shared_images
from rpn_jax.data.annotations.problems import REMEDY
from rpn_jax.data.annotations.segmentations import Mask, read_segmentation
from rpn_jax.data.annotations.voc_lists import split_names
from rpn_jax.data.annotations.yolo_files import (
    YoloConfig,
    YoloObject,
    find_listed,
    read_config,
    read_rows,
)
from rpn_jax.data.datasets.source import Example, Finding, Source
from rpn_jax.data.images import SUFFIXES, read_header, read_image
from rpn_jax.errors import UserError, list_some
from rpn_jax.files import regular


class _Labelled(NamedTuple):
    """An image, the file of its labels (None: it has none), its rows, and what others lack."""

    image: pathlib.Path
    file: pathlib.Path | None
    objects: Sequence[YoloObject] = ()
    problems: Sequence[str] = ()


def read_yolo(
    folder: str,
    *,
    skip_bad: bool = False,
    splits: Sequence[str] | str | None = None,
    outside: bool = False,
) -> Source:
    """Returns the labelled images of a folder with a `data.yaml`, or what `read_config` takes.

    Args:
      folder: holds `data.yaml`.
      skip_bad: a bad row is left out, and with it the image if it has no other.
      splits: those of `data.yaml` to read; all by default.
      outside: paths and links may lead to files outside of the folder.

    Raises:
      UserError: a folder or file is missing, empty or not of the format.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        found = "not a folder" if root.exists() else "no such folder"
        raise UserError(f"{root}: {found}")
    config = read_config(root)
    names = split_names(splits) or [*config.places]
    missing = [split for split in names if split not in config.places]
    if missing:
        raise UserError(
            f"{config.file}: has no split {list_some(missing)}; there are: "
            f"{list_some(config.places)}"
        )
    reader = _Reader(root, config, outside, skip_bad)
    labelled = {split: reader.read(split) for split in names}
    shared = shared_images({split: [e.image for e in each] for split, each in labelled.items()})
    return Source(
        config.class_names,
        {
            split: [functools.partial(_read_example, e, i) for i, e in enumerate(each)]
            for split, each in labelled.items()
        },
        reader.digest.hexdigest(),
        left_out={
            split: [Finding(str(e.file), what) for e in each if e.objects for what in e.problems]
            for split, each in labelled.items()
        },
        noted={
            split: [
                *([Finding(str(config.file), shared[split])] if split in shared else []),
                *_scores(config, split, each),
            ]
            for split, each in labelled.items()
        },
        category_ids=tuple(range(len(config.class_names))),
        has_masks=any(o.is_polygon for each in labelled.values() for e in each for o in e.objects),
    )


class _Reader:
    """Finds the images of splits and reads their labels."""

    def __init__(self, root: pathlib.Path, config: YoloConfig, outside: bool, skip_bad: bool):
        self._root, self._config, self._outside = root, config, outside
        self._skip_bad = skip_bad
        self._files = Files([root], outside)
        self.digest = hashlib.sha256(config.digest)

    def read(self, split: str) -> list[_Labelled]:
        """Returns the images of a split, in the order of their places and names."""
        try:
            images = dict.fromkeys(
                image for place in self._config.places[split] for image in self._images(place)
            )
        except FieldError as error:
            raise UserError(
                f"{self._config.file}: {split}: {error}; mend it, or name the splits to read: "
                "--config.data.options.splits=train,val"
            ) from error
        labelled = [self._labelled(image) for image in images]
        if not any(each.file for each in labelled):
            first = f", such as {self._label_name(next(iter(images)))}" if images else ""
            what = f"none of its {len(images)} images has a label file" if images else "no image"
            raise UserError(f"{self._config.file}: {split}: {what}{first}; the split is empty")
        return labelled

    def _images(self, place: str) -> Iterator[pathlib.Path]:
        base = self._config.base
        # Roboflow's `../train/images` means train/images beside data.yaml, CVAT's `data/train.txt`
        # train.txt beside obj.data.
        spellings = (place, place.removeprefix("../"), place.removeprefix("data/"))
        choices = [folder / each for folder in (base, self._root) for each in spellings]
        path = next((choice for choice in choices if choice.exists()), None)
        if path is None:
            raise FieldError(f"{place} is not in {base}")
        if not path.is_dir():
            yield from self._listed(path)
            return
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                if os.path.splitext(name)[1].lower() in SUFFIXES:
                    yield self._files.find(os.path.relpath(os.path.join(folder, name), self._root))

    def _listed(self, file: pathlib.Path) -> Iterator[pathlib.Path]:
        """Yields the images that a list names, from its own folder or that of `path`."""
        files = Files([file.parent, self._config.base, self._root], self._outside)
        try:
            lines = regular(file).read_bytes().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise FieldError(f"{file.name} is no folder and no list of images in UTF-8") from error
        for i, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield pathlib.Path(os.path.normpath(find_listed(files, line.strip())))
                except FieldError as error:
                    raise FieldError(
                        f"{file.name} line {i}: {error}; were the images exported too?"
                    ) from error

    def _labelled(self, image: pathlib.Path) -> _Labelled:
        path = self._label_name(image)
        name = os.path.relpath(path, self._root)
        try:
            file = self._files.find(name)
        except FieldError as error:
            if os.path.lexists(path):
                raise UserError(f"{path}: {error}") from error
            self.digest.update(f"{image.name}\0".encode(errors="replace"))
            return _Labelled(image, None)
        data = regular(file).read_bytes()
        self.digest.update(f"{name}\0".encode(errors="replace") + data)
        try:
            read = read_rows(data, file, self._config, skip_bad=self._skip_bad)
        except UserError as error:
            if not self._skip_bad:
                raise
            return _Labelled(image, file, problems=[str(error).removeprefix(f"{file}: ")])
        return _Labelled(image, file, *read)

    def _label_name(self, image: pathlib.Path) -> pathlib.Path:
        path = pathlib.Path(os.path.normpath(image)).with_suffix(".txt")
        root = pathlib.Path(os.path.normpath(self._root))
        # A folder above may be called `images` too; its `labels` would be outside.
        above = len(root.parts) if not self._outside and path.is_relative_to(root) else 0
        parts = list(path.parts)
        folders = [i for i in range(above, len(parts) - 1) if parts[i] == "images"]
        for i in folders[-1:]:
            parts[i] = "labels"
        return pathlib.Path(*parts)


def _scores(config: YoloConfig, split: str, labelled: Sequence[_Labelled]) -> list[Finding]:
    count = sum(o.has_score for each in labelled for o in each.objects)
    what = f"{split}: {count} rows have a sixth number, taken for a detector's score; not used"
    return [Finding(str(config.file), what)] if count else []


def _read_example(labelled: _Labelled, image_id: int) -> Example:
    image, file, objects, problems = labelled
    if problems and not objects:
        # Without any it would pass for background.
        raise UserError(f"{file}: {problems[0]}; {REMEDY}")
    data = read_image(image)
    height, width = read_header(data, str(image)).shown_hw()
    points = [o.points * (width, height) for o in objects]
    boxes = [[*p.min(axis=0), *p.max(axis=0)] for p in points]
    return Example(
        image=data,
        filename=str(image),
        image_id=image_id,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array([o.label for o in objects], np.int64),
        ignore=np.zeros(len(objects), bool),
        areas=None,
        declared_hw=(height, width),
        origins=[Finding(str(file), f"line {o.line}") for o in objects],
        read_masks=functools.partial(_masks, objects),
    )


def _masks(objects: Sequence[YoloObject], height: int, width: int) -> list[Mask]:
    return [
        read_segmentation([(o.points * (width, height)).ravel()], height, width)
        if o.is_polygon
        else Mask(b"")
        for o in objects
    ]
