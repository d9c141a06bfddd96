"""VOC's lists of image names, one for each split: `ImageSets/Main/SPLIT.txt`."""

import codecs
import pathlib
import re
from collections.abc import Callable, Sequence

from rpn_jax.errors import UserError, list_some
from rpn_jax.files import regular

# Lists of a class end each line with whether the image shows it: 1, -1, or 0 if it is difficult.
_FLAGGED = re.compile(r"(.*\S)\s+(?:1|0|-1)")
# The split of data that have no splits.
WITHOUT_SPLITS = "train"
_SPLIT = re.compile(r"[\w-]+")  # what TFDS takes into the names of files


def split_names(option: object) -> list[str] | None:
    """Returns the splits that the option `splits` names, one or several; None for all."""
    names = option.split(",") if isinstance(option, str) else option
    if names is None:
        return None
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"option splits={option!r}: give names, such as ['train', 'test']")
    return check_splits([name.strip() for name in names], "option splits")


def check_splits(names: Sequence[str], where: object) -> list[str]:
    """Returns the names, if TFDS takes them as those of splits."""
    for name in names:
        if not _SPLIT.fullmatch(name) or name == "all":
            raise UserError(
                f"{where}: {name!r} cannot be the name of a split; use letters, digits, - and _, "
                "and not all"
            )
    return list(names)


def read_name_lists(
    folder: pathlib.Path, splits: Sequence[str] | None, is_name: Callable[[str], bool]
) -> dict[str, list[str]]:
    """Returns the image names of each split, in the order of the file, each once.

    A name may hold spaces. A 1, 0 or -1 at the end of a line belongs to the name if `is_name` says
    so of the whole line; lists of a class, in which every line ends so, are split by it always,
    and are read only where `splits` names them.

    Raises:
      UserError: a list is missing, empty, or no text in UTF-8 or (with its mark) UTF-16.
    """
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
        lines = _read_lines(present[split])
        flagged = [_FLAGGED.fullmatch(line) for line in lines]
        is_of_class = all(flagged) and not all(map(is_name, lines))
        if is_of_class and splits is None:
            continue
        check_splits([split], present[split])
        lists[split] = [
            match[1] if match and (is_of_class or not is_name(line)) else line
            for line, match in zip(lines, flagged, strict=True)
        ]
    return lists


def _read_lines(file: pathlib.Path) -> list[str]:
    data = regular(file).read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{file}: is not text in UTF-8; save it so, one name a line")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    if not any(lines):
        raise UserError(f"{file}: the split is empty; list image names or remove it")
    return list(filter(None, lines))
