"""Where the COCO JSON of each split and its images lie: the layouts that are common, or options.

COCO, Ultralytics, CVAT   annotations/instances_SPLIT.json   SPLIT/ or images/SPLIT/ or images/
the same, unprefixed      annotations/SPLIT.json             (likewise)
Roboflow                  SPLIT/_annotations.coco.json       SPLIT/
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from rpn_jax.data.annotations.voc_lists import check_splits, split_names
from rpn_jax.errors import UserError, list_some

_PREFIX = "instances_"
_ROBOFLOW = "_annotations.coco.json"


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
            f"a known layout (annotations/{_PREFIX}SPLIT.json or SPLIT/{_ROBOFLOW}); splits there: "
            f"{list_some(present) or 'none'}. Of another layout name the files: "
            "--config.data.options.splits=\"{'train': ('FILE.json', 'IMAGES'), 'test': …}\""
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
    return {
        file.parent.name: SplitFiles(file, file.parent)
        for file in sorted(root.glob(f"*/{_ROBOFLOW}"))
    }


def _images(root: pathlib.Path, split: str) -> pathlib.Path:
    choices = [root / split, root / "images" / split, root / "images"]
    return next((folder for folder in choices if folder.is_dir()), choices[0])


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
