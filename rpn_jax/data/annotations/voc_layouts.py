"""Where the files of a VOC folder lie: VOC's own layout, and those that annotation tools export.

VOC, CVAT        Annotations/   JPEGImages/   ImageSets/Main/SPLIT.txt
Label Studio     Annotations/   images/       no lists: all are the split `train`
FiftyOne         labels/        data/         no lists: all are the split `train`
FiftyOne         SPLIT/labels/  SPLIT/data/   or with the names above: a folder of each split
Roboflow         SPLIT/NAME.xml beside SPLIT/NAME.jpg; or both in FOLDER, as the split `train`
"""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from rpn_jax.data.annotations.voc_lists import WITHOUT_SPLITS, check_splits
from rpn_jax.errors import UserError, list_some

_ANNOTATIONS = ("Annotations", "labels")
_IMAGES = ("JPEGImages", "images", "data")


class VocLayout(NamedTuple):
    """The folders of a dataset. Names of images are relative to them; `lists` may be absent.

    Where each split has a folder, `within` are the names of those of annotations and images in it.
    """

    annotations: pathlib.Path
    images: pathlib.Path
    lists: pathlib.Path | None
    within: tuple[str, str] | None = None

    def image_name(self, name: str) -> str:
        """Returns the name, without a suffix, of the image that the annotation of a name is of."""
        split, *rest = pathlib.PurePath(name).parts
        if self.within is None or rest[:1] != [self.within[0]]:
            return name
        return os.path.join(split, self.within[1], *rest[1:])


def find_voc_layout(root: pathlib.Path) -> VocLayout:
    """Returns where annotations, images and lists of names are.

    Raises:
      UserError: one of them is missing.
    """
    if not root.is_dir():
        raise _missing(root)
    annotations = [root / name for name in _ANNOTATIONS if (root / name).is_dir()]
    if not annotations:
        if splits := _folders_of_splits(root):
            return VocLayout(root, root, None, splits)
        beside = any(root.glob("[!.]*.xml")) or any(root.glob("*/[!.]*.xml"))
        if (root / "ImageSets").exists() or not beside:
            raise _missing(root / "Annotations")
        return VocLayout(root, root, None)
    images = [root / name for name in _IMAGES if (root / name).is_dir()]
    if not images:
        raise _missing(root / "JPEGImages")
    if len(images) > 1 and images[0].name != "JPEGImages":
        raise UserError(
            f"{root}: holds {list_some(folder.name for folder in images)}; which has the images? "
            "Call it JPEGImages"
        )
    lists = root / "ImageSets/Main"
    if lists.is_dir():
        return VocLayout(annotations[0], images[0], lists)
    if lists.parent.exists():
        raise _missing(lists)
    return VocLayout(annotations[0], images[0], None)


def _folders_of_splits(root: pathlib.Path) -> tuple[str, str] | None:
    """Returns the names of the folders of annotations and images, if each split has such two."""
    inner = {
        (path.parent.parent, path.parent.name)
        for name in _ANNOTATIONS
        for path in root.glob(f"[!._]*/{name}/[!.]*.xml")
    }
    if any((folder / "ImageSets").exists() for folder in (root, *(split for split, _ in inner))):
        return None  # several datasets, each with lists of its own
    pairs = {(name, find_voc_layout(split).images.name) for split, name in inner}
    if len(pairs) > 1:
        what = list_some(sorted({"/".join(pair) for pair in pairs}))
        raise UserError(f"{root}: its splits have folders of several names ({what}); rename them")
    return pairs.pop() if pairs else None


def listed_by_folder(layout: VocLayout, splits: Sequence[str] | None) -> dict[str, list[str]]:
    """Returns the names of each split of a layout without lists, in the order of the alphabet.

    Folders of XML files beside their images, or with a folder of either, are splits. Everything
    else is one split, `train`.

    Raises:
      UserError: there is none, or none of that name.
    """
    present: dict[str, list[str]] = {}
    for name in files_below(layout.annotations):
        stem, suffix = os.path.splitext(name)
        if suffix == ".xml" and not os.path.basename(name).startswith("."):
            folder = pathlib.PurePath(name).parts[0] if layout.annotations == layout.images else ""
            split = folder if folder and folder != name else WITHOUT_SPLITS
            present.setdefault(split, []).append(stem)
    missing = [split for split in splits or () if split not in present]
    if missing or not present:
        what = f"of {list_some(missing)} " if missing else ""
        raise UserError(
            f"{layout.annotations}: holds no annotations {what}(*.xml); splits there: "
            f"{list_some(present) or 'none'}"
        )
    check_splits([*present], layout.annotations)
    return {split: present[split] for split in splits or present}


def files_below(folder: pathlib.Path) -> list[str]:
    """Returns the files of a folder and of those in it, by their paths from there."""

    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder, onerror=stop)
        for name in names
    )


def _missing(path: pathlib.Path) -> UserError:
    found = "not a folder" if path.exists() else "no such folder"
    return UserError(
        f"{path}: {found}; a VOC folder holds Annotations, JPEGImages and ImageSets/Main"
    )
