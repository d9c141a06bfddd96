"""Any COCO instances JSON with its images, as a TFDS dataset.

    FOLDER/annotations/instances_SPLIT.json   FOLDER/SPLIT/…jpg

or any other place, named by options. A crowd (`iscrowd`) is an ignore region: of its mask only
the box is used. Category ids become labels 0, 1, … in the order of the ids.
"""

import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rpn_jax.data.datasets.source import Example, Source
from rpn_jax.data.images import read_image
from rpn_jax.errors import UserError, list_some

_PREFIX = "instances_"
_MISSING_BOX = (math.nan,) * 4
_Content = Mapping[str, list[dict[str, Any]]]


def read_coco_json(
    folder: str,
    *,
    skip_bad: bool = False,
    splits: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
) -> Source:
    """Returns the annotated images of one JSON per split.

    Args:
      folder: what relative paths start from.
      skip_bad: a bad annotation raises only when its example is read, not here already.
      splits: `{split: (json, image folder)}`; or names of splits in the layout of COCO; or None
        for all splits in that layout. All JSONs must have the same categories.

    Raises:
      UserError: a file or folder is missing, empty or not of the format.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    files = _split_files(root, splits)
    categories: dict[int, str] | None = None
    examples, digest = {}, hashlib.sha256()
    for split, (file, images) in files.items():
        if not images.is_dir():
            raise UserError(f"{images}: no such folder, but it should hold the images of {file}")
        text = _read(file)
        digest.update(f"{split}\0{images.name}\0".encode() + text)
        content, names = _parse(text, file)
        if categories not in (None, names):
            raise UserError(f"{file}: its categories are not those of the other splits' files")
        categories = names
        examples[split] = _examples(content, file, images, names, skip_bad)
    class_names = tuple(categories[key] for key in sorted(categories))
    return Source(class_names, examples, digest.hexdigest())


def _split_files(
    root: pathlib.Path, splits: Sequence[str] | Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Returns the JSON and the image folder of each split."""
    if isinstance(splits, Mapping):
        return {s: (root / file, root / images) for s, (file, images) in splits.items()}
    folder = root / "annotations"
    present = {
        path.stem.removeprefix(_PREFIX): (path, root / path.stem.removeprefix(_PREFIX))
        for path in sorted(folder.glob(f"{_PREFIX}*.json"))
    }
    missing = [split for split in splits or () if split not in present]
    if missing or not present:
        wanted = ", ".join(f"{_PREFIX}{split}.json" for split in missing or ["SPLIT"])
        raise UserError(
            f"{folder}: holds no {wanted}; splits there: {list_some(present) or 'none'}. For "
            "another layout give the option splits={split: (json, image folder)}"
        )
    return {split: present[split] for split in splits or present}


def _read(file: pathlib.Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot read the annotations ({error.strerror})") from error


def _parse(text: bytes, file: pathlib.Path) -> tuple[_Content, dict[int, str]]:
    """Returns the file's content and the name of each category id."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from error
    try:
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        has_lists = isinstance(content["images"], list) and isinstance(content["annotations"], list)
    except (KeyError, TypeError):
        has_lists = False
    if not has_lists:
        raise UserError(
            f"{file}: not a COCO instances file, which has lists of images, annotations and "
            "categories (with id and name)"
        )
    if not content["images"]:
        raise UserError(f"{file}: the split is empty; it lists no image")
    return content, names


def _examples(
    content: _Content,
    file: pathlib.Path,
    images: pathlib.Path,
    names: Mapping[int, str],
    skip_bad: bool,
) -> list[functools.partial]:
    """Returns a reader for each image, then (to be listed as skipped) one for each bad entry."""
    label_of = {category: label for label, category in enumerate(sorted(names))}
    annotations: dict[int, list[dict[str, Any]]] = {}
    present = {path.name for path in images.iterdir()}
    bad = []

    def complain(message: str) -> None:
        error = UserError(f"{file}: {message}")
        if not skip_bad:
            raise error
        bad.append(functools.partial(_raise, error))

    usable = []
    for image in content["images"]:
        name = image.get("file_name")
        if not name or "id" not in image:
            complain(f"an image has no file_name or no id: {image}")
        elif name not in present and not (images / name).is_file():
            complain(f"annotates an image that is not there, {images / name}")
        else:
            usable.append(image)
            annotations[image["id"]] = []
    known = {image.get("id") for image in content["images"]}
    for annotation in content["annotations"]:
        image_id, category = annotation.get("image_id"), annotation.get("category_id")
        if image_id not in known:
            complain(f"annotation {annotation.get('id')} is of unknown image {image_id}")
        elif category not in label_of:
            complain(f"annotation {annotation.get('id')} has unknown category {category}")
        elif image_id in annotations:
            annotations[image_id].append(annotation)
    readers = [
        functools.partial(_read_example, image, annotations[image["id"]], images, label_of)
        for image in usable
    ]
    return readers + bad


def _raise(error: UserError) -> Example:
    raise error


def _read_example(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    folder: pathlib.Path,
    label_of: Mapping[int, int],
) -> Example:
    path = folder / image["file_name"]
    size = (image.get("height"), image.get("width"))
    left_top_size = np.array([_box(a) for a in annotations], np.float64).reshape(-1, 4)
    left_top = left_top_size[:, :2]
    return Example(
        image=read_image(path),
        filename=str(path),
        image_id=int(image["id"]),
        boxes=np.concatenate([left_top, left_top + left_top_size[:, 2:]], axis=1),
        labels=np.array([label_of[a["category_id"]] for a in annotations], np.int64),
        ignore=np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool),
        areas=np.array([_area(a) for a in annotations], np.float64),
        declared_hw=size if all(size) else None,
    )


def _box(annotation: Mapping[str, Any]) -> tuple[float, ...]:
    """Returns x, y, width, height; NaN where the annotation has no such thing."""
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        return _MISSING_BOX
    return x, y, width, height


def _area(annotation: Mapping[str, Any]) -> float:
    """Returns the area of the mask, by which COCO sorts objects by size; NaN if not given."""
    area = annotation.get("area")
    return float(area) if isinstance(area, (int, float)) and area > 0 else math.nan
