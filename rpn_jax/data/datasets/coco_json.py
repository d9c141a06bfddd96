"""Any COCO instances JSON with its images, as a TFDS dataset.

The common layouts are found by themselves, see `rpn_jax.data.annotations.coco_layouts`; others are
named by an option. A crowd (`iscrowd`) is an ignore region: of its mask only the box is used.
Category ids become labels 0, 1, … in the order of the ids, numbers before names. A category that
is the supercategory of others, and that no annotation is of, is no class.
"""

import functools
import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from rpn_jax.data.annotations.coco_file import (
    CocoImage,
    CocoObject,
    Id,
    load_coco,
    read_categories,
    read_entries,
    supercategories,
    used_categories,
)
from rpn_jax.data.annotations.coco_layouts import find_splits
from rpn_jax.data.annotations.fields import shown
from rpn_jax.data.annotations.image_files import Files
from rpn_jax.data.annotations.overlaps import shared_images
from rpn_jax.data.annotations.segmentations import Mask, is_given, read_segmentation
from rpn_jax.data.datasets.source import Example, Finding, Source
from rpn_jax.data.images import read_image
from rpn_jax.errors import UserError, list_some
from rpn_jax.files import regular

_INT64 = range(-(2**63), 2**63)


def read_coco_json(
    folder: str,
    *,
    skip_bad: bool = False,
    splits: Sequence[str] | str | Mapping[str, Sequence[str]] | None = None,
    outside: bool = False,
) -> Source:
    """Returns the annotated images of one JSON per split.

    Args:
      folder: what relative paths start from.
      skip_bad: an image that cannot be used raises only when it is read, not here already; a bad
        annotation is left out, and with it the image if it has no other.
      splits: `{split: (json, image folder)}`; or names of splits in a layout that is found by
        itself; or None for all splits in it. All JSONs must have the same categories.
      outside: `file_name` and links may lead to files outside of the folder.

    Raises:
      UserError: a file or folder is missing, empty or not of the format.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        found = "not a folder" if root.exists() else "no such folder"
        raise UserError(f"{root}: {found}")
    files = find_splits(root, splits)
    contents, digest, used, above = {}, hashlib.sha256(), set(), set()
    categories: dict[Id, str] | None = None
    for split, (file, images) in files.items():
        data = _read(file)
        digest.update(f"{split}\0{images.name}\0".encode(errors="replace") + data)
        contents[split] = load_coco(data, file)
        names = read_categories(contents[split]["categories"], file)
        if categories not in (None, names):
            raise UserError(_of_categories(file, names, next(iter(files.values()))[0], categories))
        categories = names
        used |= used_categories(contents[split]["annotations"])
        above |= supercategories(contents[split]["categories"])
    roots = {c: name for c, name in categories.items() if name in above and c not in used}
    classes = _classes({c: categories[c] for c in categories if c not in roots}, used, file)
    label_of = {category: label for label, category in enumerate(classes)}

    examples, left_out, noted, paths, has_masks = {}, {}, {}, {}, False
    for split, (file, images) in files.items():
        found = Files([images, root], outside)
        read = read_entries(contents.pop(split), file, found, label_of, skip_bad=skip_bad)
        numbers = _numbers(image.id for image in read.images)
        examples[split] = [
            functools.partial(_read_example, image, number, file, label_of)
            for image, number in zip(read.images, numbers, strict=True)
        ] + [functools.partial(_raise, f"{file}: {what}") for what in read.skipped]
        left_out[split] = [Finding(str(file), what) for what in read.left_out]
        noted[split] = [Finding(str(file), what) for what in _notes(roots, found.moved)]
        paths[split] = [image.path for image in read.images]
        objects = (o for image in read.images for o in image.objects if not o.is_crowd)
        has_masks = has_masks or any(is_given(o.segmentation) for o in objects)
    for split, what in shared_images(paths).items():
        noted[split].append(Finding(str(files[split][0]), what))
    return Source(
        tuple(classes.values()),
        examples,
        digest.hexdigest(),
        left_out=left_out,
        noted=noted,
        category_ids=tuple(classes),
        has_masks=has_masks,
    )


def _of_categories(
    file: pathlib.Path, names: Mapping[Id, str], other: pathlib.Path, others: Mapping[Id, str]
) -> str:
    """Returns in which category two files differ, and what to do."""
    odd = next(id for id in (*names, *others) if names.get(id) != others.get(id))
    has, has_other = (shown(of[odd]) if odd in of else "missing" for of in (names, others))
    return (
        f"{file}: its categories are not those of {other}: id {shown(odd)} is {has} here and "
        f"{has_other} there; give all splits one list, in which a class without objects may be"
    )


def _read(file: pathlib.Path) -> bytes:
    try:
        return regular(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot read the annotations ({error.strerror})") from error


def _classes(categories: Mapping[Id, str], used: set[Id], file: pathlib.Path) -> dict[Id, str]:
    """Returns the categories that become classes, in the order of labels.

    Of several with one name, such as a supercategory that is listed too, the one in use is taken.
    """
    ids_of: dict[str, list[Id]] = {}
    for category in sorted(categories, key=lambda c: (isinstance(c, str), c)):
        ids_of.setdefault(categories[category], []).append(category)
    for name, ids in ids_of.items():
        in_use = [category for category in ids if category in used]
        if len(in_use) > 1:
            raise UserError(
                f"{file}: categories {' and '.join(map(shown, in_use))} have one name, "
                f"{shown(name)}; give each its own, or make them one"
            )
        ids_of[name] = (in_use or ids)[:1]
    chosen = {ids[0] for ids in ids_of.values()}
    return {
        category: categories[category]
        for category in sorted(chosen, key=lambda c: (isinstance(c, str), c))
    }


def _notes(roots: Mapping[Id, str], moved: Sequence[str]) -> Iterator[str]:
    for category, name in roots.items():
        yield (
            f"category {shown(category)}, {shown(name)}, is no class: it is the supercategory of "
            "others, and no annotation is of it"
        )
    if moved:
        yield (
            f"{len(moved)} images are not where their file_name says, and were found by its last "
            f"part ({list_some(map(shown, moved))})"
        )


def _numbers(ids: Iterable[Id]) -> list[int]:
    """Returns the ids, or the images' positions if an id is no number that 64 bits can hold."""
    ids = list(ids)
    if all(isinstance(image_id, int) and image_id in _INT64 for image_id in ids):
        return ids
    return list(range(len(ids)))


def _raise(message: str) -> Example:
    raise UserError(message)


def _read_example(
    image: CocoImage, number: int, file: pathlib.Path, label_of: Mapping[Id, int]
) -> Example:
    objects = image.objects
    left_top_size = np.array([o.box for o in objects], np.float64).reshape(-1, 4)
    left_top = left_top_size[:, :2]
    return Example(
        image=read_image(image.path),
        filename=str(image.path),
        image_id=number,
        boxes=np.concatenate([left_top, left_top + left_top_size[:, 2:]], axis=1),
        labels=np.array([label_of[o.category_id] for o in objects], np.int64),
        ignore=np.array([o.is_crowd for o in objects], bool),
        areas=np.array([o.area for o in objects], np.float64),
        declared_hw=image.declared_hw,
        origins=[Finding(str(file), f"{o.where}, {o.written},") for o in objects],
        original_id=image.id,
        read_masks=functools.partial(_masks, objects),
    )


def _masks(objects: Sequence[CocoObject], height: int, width: int) -> list[Mask]:
    return [read_segmentation(o.segmentation, height, width) for o in objects]
