"""Finds the files that annotations name, as Windows and macOS too write names, and none outside."""

import functools
import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from rpn_jax.data.annotations.fields import FieldError, shown
from rpn_jax.errors import UserError


class Files:
    """The files below some folders; a name is looked up in each in turn.

    A name is taken as it is; or with / for the backslashes of Windows; or, as macOS does, for the
    file whose name has the same letters in Unicode's other form (NFC, NFD). `moved` are the names
    that were found by their last part, see `find_moved`.
    """

    def __init__(self, folders: Sequence[pathlib.Path], outside: bool = False):
        """With `outside`, names and links may lead to files that lie in none of the folders.

        Raises:
          UserError: the first folder cannot be read.
        """
        self._folders = folders
        self.moved: list[str] = []
        self._roots = None if outside else [os.path.realpath(folder) for folder in folders]
        try:
            with os.scandir(folders[0]) as entries:
                self._plain = {e.name for e in entries if e.is_file(follow_symlinks=False)}
        except OSError as error:
            raise UserError(f"{folders[0]}: cannot be read ({error.strerror})") from error

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
        if self._is_there(name):
            raise FieldError(f"{shown(name)} is no regular file")
        raise FieldError(f"{shown(name)} is not in {self._folders[0]}")

    def find_moved(self, name: str) -> pathlib.Path:
        """Returns the file of that name, or else the one that its last part names.

        Annotation tools write the path or the address that an image had where it was annotated.

        Raises:
          FieldError: it is not there, or it lies outside of the folders.
        """
        try:
            return self.find(name)
        except FieldError as error:
            last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
            if last in ("", ".", "..", name) or self._is_there(name):
                raise
            try:
                path = self.find(last)
            except FieldError:
                raise error from None
            self.moved.append(name)
            return path

    def _is_there(self, name: str) -> bool:
        return any(os.path.lexists(folder / name) for folder in self._folders)

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
