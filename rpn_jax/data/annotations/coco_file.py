"""One COCO instances JSON: the entries that can be used, and what is wrong with the others.

Ids are whole numbers or names; a number that is written as text is the same id. What an entry is
called in messages is its id, or its place in the list where it has none.
"""

import collections
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rpn_jax.data.annotations.fields import (
    FieldError,
    class_name,
    flag,
    identifier,
    number,
    shown,
    side,
    text,
)
from rpn_jax.data.annotations.image_files import Files
from rpn_jax.data.annotations.problems import Problems
from rpn_jax.data.annotations.segmentations import compact
from rpn_jax.errors import UserError, first_line
from rpn_jax.text import printable

Id = int | str
_LISTS = ("images", "annotations", "categories")


class CocoObject(NamedTuple):
    """An annotation; `where` and `written` are for messages, the box is x, y, width, height."""

    image_id: Id
    category_id: Id
    box: tuple[float, float, float, float]
    is_crowd: bool
    area: float  # of the mask; NaN if not given
    where: str
    written: str
    segmentation: Any = None  # see `segmentations.compact`


class CocoImage(NamedTuple):
    """An image and what is annotated in it."""

    id: Id
    path: pathlib.Path
    declared_hw: tuple[int, int] | None
    objects: list[CocoObject]


class CocoFile(NamedTuple):
    """What a file says. `skipped` is wrong with images, `left_out` with annotations."""

    images: list[CocoImage]
    skipped: list[str]
    left_out: list[str]


def load_coco(data: bytes, file: pathlib.Path) -> dict[str, list]:
    """Returns the three lists of a file; nothing in them is checked.

    Raises:
      UserError: it is not JSON, or not of COCO's format, or lists no image.
    """
    try:
        content = json.loads(data, object_pairs_hook=_each_key_once)
    except RecursionError as error:
        raise UserError(f"{file}: not readable as JSON (it is nested too deeply)") from error
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON ({first_line(error)})") from error
    lists = content if isinstance(content, dict) else {}
    for name in _LISTS:
        if not isinstance(lists.get(name), list):
            has = f"{name}={shown(lists[name])} is no list" if name in lists else f"no {name}"
            raise UserError(
                f"{file}: not a COCO instances file, which has lists of images, annotations and "
                f"categories (with id and name): {has}"
            )
    if not lists["images"]:
        raise UserError(f"{file}: the split is empty; it lists no image")
    return {name: lists[name] for name in _LISTS}


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        key = counts.most_common(1)[0][0]
        raise ValueError(f"an object has the key {shown(key)} twice: {shown(entry)}")
    return entry


def read_categories(entries: Sequence[Any], file: pathlib.Path) -> dict[Id, str]:
    """Returns the name of each category id.

    Raises:
      UserError: a category without an id or a name, or two of one id.
    """
    names: dict[Id, str] = {}
    for i, entry in enumerate(entries):
        try:
            fields = _fields(entry)
            category, name = _read(fields, "id", identifier), _read(fields, "name", class_name)
        except FieldError as error:
            raise UserError(
                f"{file}: {_where('category', 'categories', entry, i)}: {error}; mend the file"
            ) from error
        if names.setdefault(category, name) != name:
            raise UserError(
                f"{file}: two categories have the id {shown(category)}, {shown(names[category])} "
                f"and {shown(name)}; give each its own"
            )
    return names


def supercategories(entries: Sequence[Any]) -> set[str]:
    """Returns the names that other categories have as their supercategory."""
    names = set()
    for entry in entries:
        try:
            name, above = (_read(entry, key, class_name) for key in ("name", "supercategory"))
        except FieldError:
            continue  # it has none
        if name != above:
            names.add(above)
    return names


def used_categories(entries: Sequence[Any]) -> set[Id]:
    """Returns the category ids that annotations name, as far as they can be read."""
    used = set()
    for entry in entries:
        try:
            used.add(_read(_fields(entry), "category_id", identifier))
        except FieldError:
            continue  # `read_entries` says so
    return used


def read_entries(
    content: Mapping[str, list],
    file: pathlib.Path,
    files: Files,
    categories: Iterable[Id],
    *,
    skip_bad: bool,
) -> CocoFile:
    """Returns the images of a file with their annotations.

    Images that share an id or a file are all skipped, as nobody can say whose annotations are
    whose; annotations of images that are skipped go with them.

    Raises:
      UserError: something is wrong, and `skip_bad` is not set.
    """
    skipped, left_out = Problems(file, skip_bad), Problems(file, skip_bad)
    images = _read_images(content["images"], files, skipped)
    known, used = _ids(content["images"]), _without_doubles(images, skipped)
    seen: dict[Id, int] = {}
    lacking: set[Id] = set()
    for i, entry in enumerate(content["annotations"]):
        where = _where("annotation", "annotations", entry, i)
        try:
            found = _read_annotation(entry, where, known, categories)
            annotation_id = _id(entry)
            first = i if annotation_id is None else seen.setdefault(annotation_id, i)
            if first != i:
                other = content["annotations"][first].get("image_id")
                raise FieldError(
                    f"its id is given twice, first to annotations[{first}] (of image "
                    f"{shown(other)}), here to annotations[{i}] (of image "
                    f"{shown(found.image_id)}); give each its own, or none"
                )
        except FieldError as error:
            left_out.add(f"{where}: {error}")
            lacking.add(_id(entry, "image_id"))
            continue
        if found.image_id in used:
            used[found.image_id].objects.append(found)
    for image_id in [key for key, image in used.items() if key in lacking and not image.objects]:
        # Without any it would pass for background.
        skipped.add(f"image {shown(image_id)}: none of its annotations can be used")
        del used[image_id]
    return CocoFile([*used.values()], skipped.found, left_out.found)


def _read_images(entries: Sequence[Any], files: Files, problems: Problems) -> list[CocoImage]:
    images = []
    for i, entry in enumerate(entries):
        try:
            fields = _fields(entry)
            image_id = _read(fields, "id", identifier)
            _read(fields, "file_name", text)
            hw = [_read(fields, "height", side), _read(fields, "width", side)]
            path = _read(fields, "file_name", files.find_moved)
        except FieldError as error:
            problems.add(f"{_where('image', 'images', entry, i)}: {error}")
        else:
            images.append(CocoImage(image_id, path, tuple(hw) if all(hw) else None, []))
    return images


def _without_doubles(images: Sequence[CocoImage], problems: Problems) -> dict[Id, CocoImage]:
    """Returns by their ids the images that share neither id nor file with another."""
    doubles: set[int] = set()
    for field, what in (("id", "the id"), ("path", "the file")):
        groups: dict[Any, list[int]] = collections.defaultdict(list)
        for i, image in enumerate(images):
            groups[getattr(image, field)].append(i)
        for key, members in groups.items():
            if len(members) > 1:
                names = " and ".join(
                    f"{shown(images[i].id)} ({printable(images[i].path.name)})" for i in members[:5]
                )
                key = shown(key if field == "id" else key.name)
                problems.add(f"images share {what} {key}: {names}; which annotations are whose?")
                doubles.update(members)
    return {image.id: image for i, image in enumerate(images) if i not in doubles}


def _ids(entries: Sequence[Any]) -> set[Id]:
    return {image_id for entry in entries if (image_id := _id(entry)) is not None}


def _id(entry: Any, key: str = "id") -> Id | None:
    """Returns an id of an entry, None where it has none that can be read."""
    try:
        return identifier(entry[key])
    except (FieldError, KeyError, TypeError):
        return None


def _read_annotation(
    entry: Any, where: str, images: Iterable[Id], categories: Iterable[Id]
) -> CocoObject:
    fields = _fields(entry)
    if fields.get("id") is not None:
        _read(fields, "id", identifier)
    image_id = _read(fields, "image_id", identifier)
    if image_id not in images:
        raise FieldError(f"image_id={shown(fields['image_id'])} is of unknown image")
    category_id = _read(fields, "category_id", identifier)
    if category_id not in categories:
        raise FieldError(f"category_id={shown(fields['category_id'])} is of unknown category")
    has_box = fields.get("bbox") is not None
    key = "bbox" if has_box else "segmentation"
    box = _read(fields, key, _box if has_box else _box_of_polygons)
    return CocoObject(
        image_id,
        category_id,
        box,
        _read(fields, "iscrowd", flag),
        _read(fields, "area", _area),
        f"{where} of image {shown(image_id)}",
        f"{key}={shown(fields[key])}",
        compact(fields.get("segmentation")),
    )


def _box(value: Any) -> tuple[float, float, float, float]:
    """Returns x, y, width, height."""
    if not isinstance(value, list) or len(value) != 4:
        raise FieldError(f"{shown(value)} is not [x, y, width, height]")
    try:
        x, y, width, height = map(number, value)
    except FieldError as error:
        raise FieldError(f"{shown(value)}: {error}") from error
    corners = (x, y, x + width, y + height)
    if not all(map(math.isfinite, corners)):
        raise FieldError(f"{shown(value)} is not finite")
    if max(map(abs, corners)) <= 1 and any(c != int(c) for c in corners):
        raise FieldError(f"{shown(value)} are fractions of 1; COCO has pixels")
    return x, y, width, height


def _box_of_polygons(value: Any) -> tuple[float, float, float, float]:
    """Returns the box round polygons, [[x, y, x, y, …], …]."""
    if value is None:
        raise FieldError("is missing, and so is bbox")
    polygons = value if isinstance(value, list) else []
    if not polygons or not all(map(_is_polygon, polygons)):
        raise FieldError(f"{shown(value)} are no polygons, and there is no bbox")
    xs = [number(v) for polygon in polygons for v in polygon[::2]]
    ys = [number(v) for polygon in polygons for v in polygon[1::2]]
    return tuple(_box([min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]))


def _is_polygon(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0


def _area(value: Any) -> float:
    """Returns the area of the mask, by which COCO sorts objects by size; NaN if not given."""
    area = math.nan if value is None else number(value)
    return area if area > 0 else math.nan


def _fields(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise FieldError(f"{shown(entry)} is no object with fields")
    return entry


def _read(fields: Mapping[str, Any], key: str, meaning: Callable[[Any], Any]) -> Any:
    """Returns what a field means; `FieldError` names the field."""
    if key not in fields and meaning in (identifier, class_name, text):
        raise FieldError(f"has no {key}")
    try:
        return meaning(fields.get(key))
    except FieldError as error:
        raise FieldError(f"{key}={error}" if key in fields else f"{key} {error}") from error


def _where(kind: str, name: str, entry: Any, i: int) -> str:
    """Returns what an entry is called: by its id, or by its place."""
    entry_id = _id(entry)
    return f"{name}[{i}]" if entry_id is None else f"{kind} {shown(entry_id)}"
