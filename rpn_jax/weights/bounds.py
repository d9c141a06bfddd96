"""What a weight file may have this process do: read a regular file, and take so much memory."""

import errno
import math
import pathlib
import stat
from collections.abc import Iterable, Sequence
from typing import Any

from rpn_jax.errors import UserError

# A small file may hold compressed arrays of this many bytes, a large one this many times its own.
_SMALL = 2**30
_FACTOR = 16
_MOST_AXES = 32


def check_regular(path: pathlib.Path) -> None:
    """Raises an `OSError` for what opens or reads for ever, such as a pipe, and for a folder."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe or a device")


class Budget:
    """The memory that the arrays of a file may take: a file of kilobytes brings no gigabytes."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._size = path.stat().st_size
        self._left = self._most = _SMALL + _FACTOR * self._size

    def spend(self, count: int) -> None:
        """Counts so many bytes; raises a `UserError` once there are too many in all."""
        self._left -= count
        if self._left < 0:
            raise UserError(
                f"{self._path}: has {self._size} bytes, but its arrays would take more than "
                f"{self._most / 2**30:.1f} GiB of memory, which were not read; give another"
            )


def lengths(values: Sequence[Any]) -> tuple[int, ...]:
    """Returns the lengths of an array's axes, or its strides; raises a `ValueError` for others."""
    if len(values) > _MOST_AXES or not all(type(v) is int and 0 <= v < 2**48 for v in values):
        raise ValueError("no shape")
    return tuple(values)


def size_in_bytes(shape: Iterable[int], itemsize: int) -> int:
    """Returns the bytes of an array, in numbers without an end."""
    return math.prod(map(int, shape)) * itemsize
