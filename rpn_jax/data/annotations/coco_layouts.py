"""Where the COCO JSON of each split and its images lie: the layouts that are common, or options.

COCO, Ultralytics, CVAT   annotations/instances_SPLIT.json   SPLIT/ or images/SPLIT/ or images/
the same, unprefixed      annotations/SPLIT.json             (likewise)
Roboflow                  SPLIT/_annotations.coco.json       SPLIT/
Label Studio, FiftyOne    the one JSON of FOLDER             images/ or data/ or FOLDER itself
the same, by split        the one JSON of SPLIT/             the same in SPLIT/

The one JSON of FOLDER is the split `train`.
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from rpn_jax.data.annotations.voc_lists import WITHOUT_SPLITS, check_splits, split_names
from rpn_jax.data.images import SUFFIXES
from rpn_jax.errors import UserError, list_some

_PREFIX = "instances_"
_ROBOFLOW = "_annotations.coco.json"
_OPTION = "--config.data.options.splits=\"{'train': ('FILE.json', 'IMAGES'), 'test': …}\""


class SplitFiles(NamedTuple):
    """A JSON and the folder of its images."""

    annotations: pathlib.Path
    images: pathlib.Path


def find_splits(root: pathlib.Path, option: object = None) -> dict[str, SplitFiles]:
    """Returns the files of each split.

    Args:
      root: what relative paths start from.
      option: `{split: (json, image folder)}`; or names of splits, in a layout that is found by
        itself; or None for all in it.

    Raises:
      UserError: no such files, or an option that means nothing.
    """
    if isinstance(option, Mapping):
        return _given(root, option)
    names = split_names(option)
    present = _layout(root)
    missing = [split for split in names or () if split not in present]
    if missing or not present:
        raise UserError(
            f"{root}: holds no COCO annotations {f'of {list_some(missing)} ' if missing else ''}in "
            f"a known layout (annotations/{_PREFIX}SPLIT.json or SPLIT/{_ROBOFLOW}, or one JSON "
            f"beside its images); splits there: {list_some(present) or 'none'}. Of another layout "
            f"name the files: {_OPTION}"
        )
    check_splits([*present], root)
    found = {split: present[split] for split in names or present}
    for split, files in found.items():
        if not files.images.is_dir():
            raise UserError(
                f"{files.images}: no such folder, but it should hold the images of "
                f"{files.annotations}; {root / 'images' / split} may, too"
            )
    return found


def _layout(root: pathlib.Path) -> dict[str, SplitFiles]:
    """Returns the splits of the first layout that has any."""
    folder = root / "annotations"
    prefixed = {
        path.stem.removeprefix(_PREFIX): path for path in sorted(folder.glob(f"{_PREFIX}*.json"))
    }
    files = prefixed or {path.stem: path for path in sorted(folder.glob("*.json"))}
    if files:
        return {split: SplitFiles(file, _images(root, split)) for split, file in files.items()}
    if files := sorted(root.glob(f"*/{_ROBOFLOW}")):
        return {file.parent.name: SplitFiles(file, file.parent) for file in files}
    if file := _only_json(root):
        return {WITHOUT_SPLITS: SplitFiles(file, _beside(file))}
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    return {
        folder.name: SplitFiles(f, _beside(f)) for folder in folders if (f := _only_json(folder))
    }


def _images(root: pathlib.Path, split: str) -> pathlib.Path:
    choices = [root / split, root / "images" / split, root / "images"]
    found = next((folder for folder in choices if folder.is_dir()), None)
    if found is None and any(path.suffix.lower() in SUFFIXES for path in root.iterdir()):
        return root
    return found or choices[0]


def _only_json(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the one JSON of a folder; None where there is none."""
    files = sorted(folder.glob("[!.]*.json"))  # macOS leaves a ._NAME beside each NAME
    if len(files) > 1:
        raise UserError(
            f"{folder}: holds {list_some(file.name for file in files)}; which is of which split? "
            f"Name them: {_OPTION}"
        )
    return files[0] if files else None


def _beside(file: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a JSON's images, where each split has a folder, or there is one."""
    choices = [file.parent / "images", file.parent / "data"]
    return next((folder for folder in choices if folder.is_dir()), file.parent)


def _given(root: pathlib.Path, option: Mapping) -> dict[str, SplitFiles]:
    check_splits([str(split) for split in option], "option splits")
    found = {}
    for split, pair in option.items():
        if not isinstance(pair, list | tuple) or [type(part) for part in pair] != [str, str]:
            raise UserError(
                f"option splits: {split}={pair!r} is not (JSON file, folder of its images)"
            )
        found[str(split)] = SplitFiles(root / pair[0], root / pair[1])
        if not found[str(split)].images.is_dir():
            raise UserError(
                f"{root / pair[1]}: no such folder, but it should hold the images of "
                f"{root / pair[0]}"
            )
    if not found:
        raise UserError("option splits: names no split; give {'train': ('FILE.json', 'IMAGES')}")
    return found
