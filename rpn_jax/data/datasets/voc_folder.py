"""Any folder in the layout of PASCAL VOC, as a TFDS dataset.

    FOLDER/Annotations/NAME.xml   FOLDER/JPEGImages/NAME.jpg   FOLDER/ImageSets/Main/SPLIT.txt

VOC counts pixels from 1 and includes the last one: a box (xmin, ymin, xmax, ymax) covers the
continuous rectangle (xmin - 1, ymin - 1, xmax, ymax). A `difficult` object is an ignore region.
"""

import functools
import hashlib
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from rpn_jax.data.datasets.source import Example, Source
from rpn_jax.data.images import read_image
from rpn_jax.errors import UserError, list_some


class _Object(NamedTuple):
    class_name: str
    box: tuple[float, float, float, float]
    difficult: bool


class _Annotation(NamedTuple):
    objects: tuple[_Object, ...]
    declared_hw: tuple[int, int] | None


def read_voc_folder(
    folder: str, *, skip_bad: bool = False, splits: Sequence[str] | None = None
) -> Source:
    """Returns the annotated images of a VOC folder.

    Args:
      folder: holds `Annotations`, `JPEGImages` and `ImageSets/Main`.
      skip_bad: a bad annotation raises only when its example is read, not here already.
      splits: the name lists to read; all of `ImageSets/Main` by default, except those per class
        (whose lines end in 1, 0 or -1). `all.txt` cannot be one.

    Raises:
      UserError: a folder, list, annotation or image is missing, empty or unreadable.
    """
    root = pathlib.Path(folder)
    for part in ("", "Annotations", "JPEGImages", "ImageSets/Main"):
        if not (root / part).is_dir():
            raise UserError(
                f"{root / part}: no such folder; a VOC folder holds Annotations, JPEGImages and "
                "ImageSets/Main"
            )
    lists = _name_lists(root / "ImageSets/Main", splits)
    images = {path.stem: path for path in sorted((root / "JPEGImages").iterdir())}

    annotations: dict[str, _Annotation | UserError] = {}
    digest = hashlib.sha256(repr(lists).encode())
    for name in dict.fromkeys(name for names in lists.values() for name in names):
        try:
            path = root / "Annotations" / f"{name}.xml"
            if not path.is_file():
                raise UserError(f"{path}: no such annotation file, but ImageSets/Main names it")
            text = path.read_bytes()
            digest.update(name.encode() + b"\0" + text)
            if name not in images:
                raise UserError(f"{path}: annotates an image that JPEGImages does not hold")
            annotations[name] = _parse(text, str(path))
        except UserError as error:
            if not skip_bad:
                raise
            annotations[name] = error

    usable = [a for a in annotations.values() if isinstance(a, _Annotation)]
    class_names = tuple(sorted({o.class_name for a in usable for o in a.objects}))
    label_of = {class_name: label for label, class_name in enumerate(class_names)}
    examples = {
        split: [
            functools.partial(_read_example, annotations[name], images.get(name), i, label_of)
            for i, name in enumerate(names)
        ]
        for split, names in lists.items()
    }
    return Source(class_names, examples, digest.hexdigest())


def _name_lists(folder: pathlib.Path, splits: Sequence[str] | None) -> dict[str, list[str]]:
    """Returns the image names of each split, in the order of the file."""
    # TFDS reserves the name `all` for what it says.
    present = {p.stem: p for p in sorted(folder.glob("*.txt")) if p.stem != "all"}
    missing = [split for split in splits or () if split not in present]
    if missing or not present:
        raise UserError(
            f"{folder}: holds no name list {', '.join(f'{m}.txt' for m in missing) or '(*.txt)'}; "
            f"there are: {list_some(present) or 'none'}"
        )
    lists = {}
    for split in splits or present:
        lines = present[split].read_text(encoding="utf-8-sig").splitlines()
        rows = [line.split() for line in lines if line.strip()]
        if not rows:
            raise UserError(f"{present[split]}: the split is empty; list image names or remove it")
        if splits is None and all(len(row) == 2 and row[1] in ("1", "0", "-1") for row in rows):
            continue
        lists[split] = [row[0] for row in rows]
    return lists


def _parse(text: bytes, file: str) -> _Annotation:
    """Returns what an annotation says; a coordinate that is no number becomes NaN.

    The XML may come from anyone: defusedxml refuses entity definitions and external entities.
    """
    try:
        root = fromstring(text)
    except DefusedXmlException as error:
        raise UserError(f"{file}: the XML defines entities, which is refused ({error})") from error
    except (ParseError, ValueError, LookupError) as error:
        raise UserError(f"{file}: not readable as XML ({error})") from error
    size = [_number(root, f"size/{side}") for side in ("height", "width")]
    objects = []
    for element in root.findall("object"):
        class_name = (element.findtext("name") or "").strip()
        if not class_name:
            raise UserError(f"{file}: object {len(objects) + 1} has no name")
        sides = (_number(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        box = _continuous_box(*sides)
        objects.append(_Object(class_name, box, _number(element, "difficult") == 1))
    known = all(side > 0 for side in size)  # some tools write 0 x 0
    return _Annotation(tuple(objects), (int(size[0]), int(size[1])) if known else None)


def _continuous_box(
    xmin: float, ymin: float, xmax: float, ymax: float
) -> tuple[float, float, float, float]:
    """Returns x1, y1, x2, y2 in continuous pixels.

    Equal sides would be one pixel to the letter of VOC; in real data they are a slip of the mouse
    (BCCD has two), so they stay equal and the box is dropped as one without area.
    """
    if xmin == xmax or ymin == ymax:
        return xmin, ymin, xmax, ymax
    return xmin - 1, ymin - 1, xmax, ymax


def _number(element: Element, path: str) -> float:
    try:
        return float(element.findtext(path) or "nan")
    except ValueError:
        return math.nan


def _read_example(
    annotation: _Annotation | UserError,
    image: pathlib.Path | None,
    image_id: int,
    label_of: Mapping[str, int],
) -> Example:
    """Returns the example; raises what was wrong with an annotation that is to be skipped."""
    if isinstance(annotation, UserError):
        raise annotation
    objects = annotation.objects
    return Example(
        image=read_image(image),
        filename=str(image),
        image_id=image_id,
        boxes=np.array([o.box for o in objects], np.float64).reshape(-1, 4),
        labels=np.array([label_of[o.class_name] for o in objects], np.int64),
        ignore=np.array([o.difficult for o in objects], bool),
        areas=None,
        declared_hw=annotation.declared_hw,
    )
