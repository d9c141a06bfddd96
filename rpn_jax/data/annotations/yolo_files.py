"""YOLO's text files: `data.yaml`, which names classes and splits, and the rows of objects.

    path: .                  what the others are relative to
    train: images/train      a folder, a list of images (.txt), or several of them
    names: [dog, cat]        or {0: dog, 1: cat}

Darknet's `obj.data` says the same, as CVAT exports it:

    classes = 2
    names = data/obj.names   the name of a class in each line
    train = data/train.txt   a list of images

A row is `class cx cy w h`, in fractions of the image's sides; a detector may add its score. One
of `class x y x y x y …` is a polygon.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml

from rpn_jax.data.annotations.fields import FieldError, class_name, identifier, number, shown
from rpn_jax.data.annotations.image_files import Files
from rpn_jax.data.annotations.problems import Problems
from rpn_jax.data.annotations.voc_lists import check_splits
from rpn_jax.errors import UserError, first_line
from rpn_jax.files import regular

SPLITS = ("train", "val", "test")
_YAML = (".yaml", ".yml")
_BOX = 5  # numbers of a row: a class, and cx, cy, w, h
_POLYGON = 7  # and at least: a class and three points
_ROUNDING = 0.01  # tools write fractions that are out of [0, 1] by less


class YoloObject(NamedTuple):
    """A row: its line, its class, and x, y pairs as fractions of the image's width and height.

    The pairs are the corners of the box (2, 2), or the points of a polygon (P, 2).
    """

    line: int
    label: int
    points: np.ndarray
    has_score: bool = False

    @property
    def is_polygon(self) -> bool:
        """Whether the row is the outline of an object, not its box."""
        return len(self.points) > 2


class YoloConfig(NamedTuple):
    """What `data.yaml` or its like says: classes in the order of their numbers, places by split."""

    file: pathlib.Path
    digest: bytes
    class_names: tuple[str, ...]
    base: pathlib.Path
    places: dict[str, list[str]]


def read_config(root: pathlib.Path) -> YoloConfig:
    """Returns what the `data.yaml` of a folder says, or its only YAML file of another name.

    Without one, `obj.data` says it, as CVAT exports YOLO 1.1. Or `classes.txt` has the name of a
    class in each line, and `images` is the split `train`, as Label Studio exports it.

    Raises:
      UserError: there is none, or it is not of the format.
    """
    if not any(path.suffix in _YAML for path in root.iterdir()):
        if (file := root / "obj.data").is_file():
            return _of_darknet(root, file)
        if (file := root / "classes.txt").is_file():
            return YoloConfig(file, *_read_names(file), root, {"train": ["images"]})
    file = _config_file(root)
    data = regular(file).read_bytes()
    try:
        # Its values stay text: a class may be called `no` or 1.
        content = yaml.load(data, yaml.BaseLoader)
    except (RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not readable as YAML ({first_line(error)})") from error
    fields = content if isinstance(content, dict) else {}
    try:
        names = _class_names(fields)
        places = {split: _places(fields, split) for split in SPLITS if fields.get(split)}
        path = _text(fields.get("path") or ".", "path")
        if "kpt_shape" in fields:
            raise FieldError("kpt_shape: rows with keypoints are not read; export boxes")
    except FieldError as error:
        raise UserError(f"{file}: {error}") from error
    if not places:
        raise UserError(
            f"{file}: names no split; give train, val or test the folder of its images, such as "
            "train: images/train"
        )
    # Where the folder was moved, the `path` of another machine is stale.
    base = root / path if (root / path).is_dir() else root
    return YoloConfig(file, data, names, base, places)


def _of_darknet(root: pathlib.Path, file: pathlib.Path) -> YoloConfig:
    """Returns what an `obj.data` says: each of its fields that names a list (.txt) is a split."""
    lines = _read_lines(file, "a field = value in each line")
    written = [re.split(r"\s#", f" {line}")[0].partition("=") for line in lines]
    fields = {field.strip(): value.strip() for field, _, value in written}
    named = fields.pop("names", "obj.names")
    try:
        listed = find_listed(Files([root]), named)
    except FieldError as error:
        raise UserError(
            f"{file}: names: {error}; put it there, with the name of a class in each line, in the "
            "order of their numbers"
        ) from error
    digest, names = _read_names(listed)
    if fields.get("classes", str(len(names))) != str(len(names)):
        raise UserError(
            f"{file}: classes={shown(fields['classes'])}, but {listed.name} has {len(names)}; "
            "mend either"
        )
    places = {split: [place] for split, place in fields.items() if place.endswith(".txt")}
    if not places:
        raise UserError(f"{file}: names no split; give the list of its images: train = train.txt")
    check_splits([*places], file)
    return YoloConfig(file, regular(file).read_bytes() + digest, names, root, places)


def find_listed(files: Files, name: str) -> pathlib.Path:
    """Returns the file of a name; CVAT's `data/a.jpg` may be a.jpg beside `obj.data`.

    Raises:
      FieldError: it is not there, or it lies outside of the folders.
    """
    try:
        return files.find(name)
    except FieldError:
        if not name.startswith("data/"):
            raise
        return files.find(name.removeprefix("data/"))


def _read_names(file: pathlib.Path) -> tuple[bytes, tuple[str, ...]]:
    """Returns the bytes of a file with the name of a class in each line, and the names."""
    lines = _read_lines(file, "one name a line")
    if not lines:
        raise UserError(f"{file}: names no class; write the name of one in each line")
    try:
        return regular(file).read_bytes(), _class_names({"names": lines})
    except FieldError as error:
        raise UserError(f"{file}: {error}") from error


def _read_lines(file: pathlib.Path, remedy: str) -> list[str]:
    try:
        return regular(file).read_bytes().decode("utf-8-sig").strip().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not text in UTF-8; save it so, {remedy}") from error


def _config_file(root: pathlib.Path) -> pathlib.Path:
    found = sorted(path for path in root.iterdir() if path.suffix in _YAML)
    exact = [path for path in found if path.stem == "data"] or found
    if len(exact) != 1:
        there = f"has several YAML files ({', '.join(p.name for p in exact)})" if exact else "has"
        raise UserError(
            f"{root}: {there} no data.yaml; give it one with train: and val: (folders of images) "
            "and names: (of classes)"
        )
    return exact[0]


def _class_names(fields: dict[str, Any]) -> tuple[str, ...]:
    names = fields.get("names")
    if not names or not isinstance(names, list | dict):
        raise FieldError("has no names; list the classes, such as names: [dog, cat]")
    if isinstance(names, dict):
        names = {identifier(key): name for key, name in names.items()}
        if set(names) != set(range(len(names))):
            raise FieldError(f"names: has {len(names)} classes; number them 0 to {len(names) - 1}")
        names = [names[label] for label in range(len(names))]
    names = [class_name(_text(name, f"names: class {i}")) for i, name in enumerate(names)]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise FieldError(f"names: two classes are called {shown(twice[0])}; give each its own name")
    if fields.get("nc") and fields["nc"] != str(len(names)):
        raise FieldError(f"nc={shown(fields['nc'])}, but names has {len(names)}; mend either")
    return tuple(names)


def _places(fields: dict[str, Any], split: str) -> list[str]:
    given = fields[split]
    return [_text(place, split) for place in (given if isinstance(given, list) else [given])]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise FieldError(f"{what}: is no text, but {type(value).__name__}")
    return value.strip()


def read_rows(
    data: bytes, file: pathlib.Path, config: YoloConfig, *, skip_bad: bool
) -> tuple[list[YoloObject], list[str]]:
    """Returns the objects of a label file, and what is wrong with its other rows.

    Raises:
      UserError: it is not text; or a row cannot be used, and `skip_bad` is not set.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not text in UTF-8; its rows are: class cx cy w h") from error
    problems, objects = Problems(file, skip_bad), []
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            objects.append(_read_row(i, line.split(), config))
        except FieldError as error:
            problems.add(f"line {i}: {error}")
    return objects, problems.found


def _read_row(line: int, words: Sequence[str], config: YoloConfig) -> YoloObject:
    has_score = len(words) == _BOX + 1
    is_polygon = len(words) >= _POLYGON and len(words) % 2 == 1
    if not (len(words) == _BOX or has_score or is_polygon):
        raise FieldError(
            f"has {len(words)} numbers; a box has 5 (class cx cy w h), a polygon 7, 9, 11, …"
        )
    label, *fractions = map(number, words)
    count = len(config.class_names)
    if label != int(label) or not 0 <= label < count:
        raise FieldError(
            f"class {words[0]} is not in {config.file.name}, whose names are 0 to {count - 1}"
        )
    values = np.array(fractions[: 4 if has_score else None])
    wrong = (values < -_ROUNDING) | (values > 1 + _ROUNDING)
    if wrong.any():
        word = words[1 + int(wrong.argmax())]
        raise FieldError(f"{word} is not in [0, 1]; YOLO has fractions of the image's sides")
    points = values.reshape(-1, 2)
    if not is_polygon:
        center, size = points
        points = np.stack([center - size / 2, center + size / 2])
    return YoloObject(line, int(label), points, has_score)
