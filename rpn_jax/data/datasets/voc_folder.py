"""Any folder in the layout of PASCAL VOC, as a TFDS dataset.

    FOLDER/Annotations/NAME.xml   FOLDER/JPEGImages/NAME.jpg   FOLDER/ImageSets/Main/SPLIT.txt
    FOLDER/SegmentationObject/NAME.png, of the images that have masks

Or as annotation tools export it, see `rpn_jax.data.annotations.voc_layouts`.

VOC counts pixels from 1 and includes the last one: a box (xmin, ymin, xmax, ymax) covers the
continuous rectangle (xmin - 1, ymin - 1, xmax, ymax). A `difficult` object is an ignore region.
"""

import functools
import hashlib
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rpn_jax.data.annotations.fields import FieldError
from rpn_jax.data.annotations.image_files import Files
from rpn_jax.data.annotations.problems import REMEDY
from rpn_jax.data.annotations.segmentations import Mask, read_png
from rpn_jax.data.annotations.voc_layouts import (
    VocLayout,
    files_below,
    find_voc_layout,
    listed_by_folder,
)
from rpn_jax.data.annotations.voc_lists import read_name_lists, split_names
from rpn_jax.data.annotations.voc_xml import VocAnnotation, VocObject, parse_voc_xml
from rpn_jax.data.datasets.source import Example, Finding, Source
from rpn_jax.data.images import SUFFIXES, read_image
from rpn_jax.errors import UserError, list_some
from rpn_jax.files import regular


class _Annotated(NamedTuple):
    """An image, the file that annotates it, and what that says."""

    image: pathlib.Path
    file: pathlib.Path
    annotation: VocAnnotation
    masks: pathlib.Path | UserError | None = None


def read_voc_folder(
    folder: str,
    *,
    skip_bad: bool = False,
    splits: Sequence[str] | str | None = None,
    first_pixel: int = 1,
    outside: bool = False,
) -> Source:
    """Returns the annotated images of a VOC folder.

    Args:
      folder: holds `Annotations`, `JPEGImages` and `ImageSets/Main`, or another layout of
        `voc_layouts`.
      skip_bad: a bad annotation raises only when its example is read, not here already; a bad
        object is left out, and with it the image if it has no other.
      splits: the name lists to read; all of `ImageSets/Main` by default, except those per class
        (whose lines end in 1, 0 or -1). `all.txt` cannot be one.
      first_pixel: 0 for files that count from 0: a box covers (xmin, ymin, xmax, ymax) there.
      outside: images may be links to files outside of the folder.

    Raises:
      UserError: a folder, list, annotation or image is missing, empty or unreadable.
    """
    if first_pixel not in (0, 1):
        raise UserError(f"option first_pixel={first_pixel!r}: give 1, or 0 for files that say so")
    root = pathlib.Path(folder)
    layout = find_voc_layout(root)
    reader = _Reader(root, layout, outside)
    if layout.lists:
        lists = read_name_lists(layout.lists, split_names(splits), reader.is_name)
    else:
        lists = listed_by_folder(layout, split_names(splits))
    annotated: dict[str, _Annotated | UserError] = {}
    for name in dict.fromkeys(name for names in lists.values() for name in names):
        try:
            annotated[name] = reader.read(name)
            if annotated[name].annotation.problems and not skip_bad:
                problem = annotated[name].annotation.problems[0]
                raise UserError(f"{annotated[name].file}: {problem}")
        except UserError as error:
            if not skip_bad:
                raise UserError(f"{error}; {REMEDY}") from error
            annotated[name] = error
    usable = [a for a in annotated.values() if isinstance(a, _Annotated)]
    class_names = tuple(sorted({o.class_name for a in usable for o in a.annotation.objects}))
    read = functools.partial(
        _read_example,
        first_pixel=first_pixel,
        label_of={class_name: label for label, class_name in enumerate(class_names)},
    )
    examples = {
        split: [
            functools.partial(read, annotated[name], image_id)
            for image_id, name in enumerate(dict.fromkeys(names))
        ]
        for split, names in lists.items()
    }
    digest = hashlib.sha256(repr(lists).encode())
    digest.update(reader.digest.digest())
    return Source(
        class_names,
        examples,
        digest.hexdigest(),
        left_out={split: _left_out(annotated, names) for split, names in lists.items()},
        noted={
            split: [
                *_repeated(root / f"ImageSets/Main/{split}.txt", names),
                *_zeros(layout.annotations, annotated, names, first_pixel),
            ]
            for split, names in lists.items()
        },
        has_masks=any(each.masks for each in usable),
    )


class _Reader:
    """Finds and reads the annotation and the image of a name."""

    def __init__(self, root: pathlib.Path, layout: VocLayout, outside: bool):
        self._annotations = Files([layout.annotations], outside)
        self._images = Files([layout.images], outside)
        masks = root / "SegmentationObject"
        self._masks = Files([masks], outside) if masks.is_dir() else None
        self._masks_folder = masks
        self._layout = layout
        self.digest = hashlib.sha256()
        self._by_stem = _by_stem(layout.images)
        self._masks_by_stem = _by_stem(masks) if self._masks else {}

    def is_name(self, name: str) -> bool:
        """Returns whether an annotation has that name."""
        try:
            self._annotations.find(f"{name}.xml")
        except FieldError:
            return False
        return True

    def read(self, name: str) -> _Annotated:
        path = self._layout.annotations / f"{name}.xml"
        try:
            path = self._annotations.find(f"{name}.xml")
        except FieldError as error:
            reason = error if os.path.isfile(path) else "no such annotation file"
            raise UserError(f"{path}: {reason}, but ImageSets/Main names it") from error
        try:
            text = regular(path).read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        self.digest.update(name.encode() + b"\0" + text)
        annotation = parse_voc_xml(text, str(path))
        return _Annotated(self._image(path, name), path, annotation, self._masks_of(name))

    def _masks_of(self, name: str) -> pathlib.Path | UserError | None:
        """Returns the masks of a name, or why they cannot be; of most of VOC there are none."""
        files = self._masks_by_stem.get(unicodedata.normalize("NFC", name), [])
        images = [file for file in files if os.path.splitext(file)[1].lower() in SUFFIXES]
        if not images:
            return None
        file = max(images, key=lambda file: (file.endswith(".png"), file.endswith(".PNG")))
        try:
            return self._masks.find(file)
        except FieldError as error:
            return UserError(f"{self._masks_folder / file}: {error}")

    def _image(self, path: pathlib.Path, name: str) -> pathlib.Path:
        """Returns the image of a name: the one file called so, its suffix apart."""
        name = self._layout.image_name(name)
        files = self._by_stem.get(unicodedata.normalize("NFC", name), [])
        exact = [file for file in files if os.path.splitext(file)[0] == name]
        files = exact or files
        images = [file for file in files if os.path.splitext(file)[1].lower() in SUFFIXES]
        files = images or files
        if len(files) > 1:
            raise UserError(
                f"{path}: annotates one image, but {self._layout.images.name} holds "
                f"{list_some(files)}; "
                "remove or rename all but one"
            )
        try:
            return self._images.find(files[0] if files else "")
        except FieldError as error:
            what = (
                error
                if files
                else f"annotates an image that {self._layout.images.name} does not hold"
            )
            raise UserError(f"{path}: {what}") from error


def _by_stem(folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns the names of a folder's files, XML apart, by their stems, composed (NFC)."""
    by_stem: dict[str, list[str]] = {}
    for name in files_below(folder):
        base, suffix = os.path.splitext(name)
        if suffix.lower() != ".xml":
            by_stem.setdefault(unicodedata.normalize("NFC", base), []).append(name)
    return by_stem


def _left_out(
    annotated: Mapping[str, _Annotated | UserError], names: Iterable[str]
) -> list[Finding]:
    return [
        Finding(str(annotated[name].file), problem)
        for name in dict.fromkeys(names)
        if isinstance(annotated[name], _Annotated)
        for problem in annotated[name].annotation.problems
    ]


def _repeated(file: pathlib.Path, names: Sequence[str]) -> list[Finding]:
    repeated = (
        sorted({name for name in names if names.count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if not repeated:
        return []
    return [Finding(str(file), f"lists {list_some(repeated)} more than once; taken once")]


def _zeros(
    folder: pathlib.Path,
    annotated: Mapping[str, _Annotated | UserError],
    names: Iterable[str],
    first_pixel: int,
) -> list[Finding]:
    """Returns a finding if files that should count from 1 have zeros."""
    usable = [annotated[n] for n in dict.fromkeys(names) if isinstance(annotated[n], _Annotated)]
    files = [a.file.name for a in usable if any(0 in o.corners[:2] for o in a.annotation.objects)]
    if not files or first_pixel == 0:
        return []
    return [
        Finding(
            str(folder),
            f"{len(files)} of {len(usable)} files have boxes that begin at 0 ({list_some(files)}), "
            "which VOC counts from 1; if all count from 0 give the option first_pixel=0",
        )
    ]


def _continuous_box(each: VocObject, first_pixel: int) -> tuple[float, float, float, float]:
    """Returns x1, y1, x2, y2 in continuous pixels.

    Equal sides would be one pixel to the letter of VOC; in real data they are a slip of the mouse
    (BCCD has two), so they stay equal and the box is dropped as one without area.
    """
    xmin, ymin, xmax, ymax = each.corners
    if xmin == xmax or ymin == ymax:
        return each.corners
    return xmin - first_pixel, ymin - first_pixel, xmax, ymax


def _read_example(
    annotated: _Annotated | UserError,
    image_id: int,
    *,
    first_pixel: int,
    label_of: Mapping[str, int],
) -> Example:
    """Returns the example; raises what was wrong with an annotation that is to be skipped."""
    if isinstance(annotated, UserError):
        raise annotated
    image, file, (objects, declared_hw, problems), masks = annotated
    if problems and not objects:
        raise UserError(f"{file}: {problems[0]}")
    boxes = [_continuous_box(each, first_pixel) for each in objects]
    return Example(
        image=read_image(image),
        filename=str(image),
        image_id=image_id,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array([label_of[o.class_name] for o in objects], np.int64),
        ignore=np.array([o.difficult for o in objects], bool),
        areas=None,
        declared_hw=declared_hw,
        origins=[Finding(str(file), f"{o.where}, {o.written},") for o in objects],
        read_masks=functools.partial(_masks, masks, objects, len(objects) + len(problems)),
    )


def _masks(
    file: pathlib.Path | UserError | None,
    objects: Sequence[VocObject],
    count: int,
    height: int,
    width: int,
) -> list[Mask]:
    if file is None:
        return [Mask(b"")] * len(objects)
    if isinstance(file, UserError):
        raise file
    return read_png(file, [each.number for each in objects], count, (height, width))
