"""Finds the files that annotations name, as Windows and macOS too write names, and none outside."""

import functools
import os
import pathlib
import unicodedata
from collections.abc import Sequence

from rpn_jax.data.annotations.fields import FieldError, shown


class Files:
    """The files below some folders; a name is looked up in each in turn.

    A name is taken as it is; or with / for the backslashes of Windows; or, as macOS does, for the
    file whose name has the same letters in Unicode's other form (NFC, NFD).
    """

    def __init__(self, folders: Sequence[pathlib.Path], outside: bool = False):
        """With `outside`, names and links may lead to files that lie in none of the folders."""
        self._folders = folders
        self._roots = None if outside else [os.path.realpath(folder) for folder in folders]
        with os.scandir(folders[0]) as entries:
            self._plain = {e.name for e in entries if e.is_file(follow_symlinks=False)}

    def find(self, name: str) -> pathlib.Path:
        """Returns the file of that name.

        Raises:
          FieldError: it is not there, or it lies outside of the folders.
        """
        if name in self._plain:
            return self._folders[0] / name
        spellings = dict.fromkeys([name, name.replace("\\", "/")])
        for spelling in spellings:
            for folder in self._folders:
                path = folder / spelling
                if os.path.isfile(path):
                    return self._checked(path)
        for spelling in spellings:
            for folder in self._folders:
                if path := self._of_other_form(folder, spelling):
                    return self._checked(path)
        if any(os.path.lexists(folder / name) for folder in self._folders):
            raise FieldError(f"{shown(name)} is no regular file")
        raise FieldError(f"{shown(name)} is not in {self._folders[0]}")

    def _checked(self, path: pathlib.Path) -> pathlib.Path:
        real = os.path.realpath(path)
        if self._roots is None or any(real.startswith(f"{root}{os.sep}") for root in self._roots):
            return path
        raise FieldError(
            f"{shown(str(path))} leads out of the folder; the option outside=True allows that"
        )

    def _of_other_form(self, folder: pathlib.Path, name: str) -> pathlib.Path | None:
        path = folder
        for part in pathlib.PurePath(name).parts:
            same = self._by_form(path).get(unicodedata.normalize("NFC", part), ())
            if len(same) != 1:
                return None
            path = path / same[0]
        return path if os.path.isfile(path) else None

    @functools.lru_cache(maxsize=64)  # noqa: B019 - lives as long as the reading of a dataset
    def _by_form(self, folder: pathlib.Path) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        if folder.is_dir():
            for name in os.listdir(folder):
                names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        return names
