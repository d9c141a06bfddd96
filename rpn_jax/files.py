"""Atomic file writes, and locks."""

import contextlib
import datetime
import errno
import fcntl
import os
import pathlib
import platform
import re
import stat
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from rpn_jax.errors import UserError
from rpn_jax.text import printable

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.tmp")
_UNLOCKED_SECONDS = 5  # at most, from the creation of an unfinished file to its lock
_cleared: set[pathlib.Path] = set()
_clearing = threading.Lock()

# How long a lock waits for a killed process to release it.
_LOCK_SECONDS = 5


def user_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns the path with `~` expanded: bash does not expand it in `--out=~/x`."""
    return pathlib.Path(os.path.expanduser(path))


def check_out(path: pathlib.Path, *, folder: bool = False, flag: str = "--out") -> None:
    """Checks, before there is something to write, that the file or `folder` of a flag can be made.

    Makes nothing.

    Raises:
        UserError: there is a file where a folder is needed or the other way round, or the folder
            may not be written to.
    """
    problem = _problem(path, folder)
    if problem:
        raise UserError(f"{flag}={path}: cannot be written ({problem}); give another place")


def _problem(path: pathlib.Path, is_folder: bool) -> str | None:
    try:
        os.stat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return error.strerror  # such as a name that is too long
    if not is_folder and path.is_dir():
        return "is a folder, and a file is to be there"
    wanted = path if is_folder else path.absolute().parent
    there = next(place for place in (wanted, *wanted.parents) if os.path.lexists(place))
    if not there.is_dir():
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} may not be written to"
    return None


def regular(path: pathlib.Path) -> pathlib.Path:
    """Returns `path`, there or not; raises a `UserError` if it is a pipe or a device.

    To open a pipe is to wait for its other end, and a folder of somebody else may hold one.
    """
    with contextlib.suppress(OSError):
        if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{path}: a pipe or a device, which is not read; remove it")
    return path


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path` when the block ends without an error.

    Missing folders are made. Several processes may write one path at once: each writes a file of
    its own, and the last to end wins. An `OSError` is passed on and leaves nothing behind. Leftover
    files of killed processes are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_partial(path.parent)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def clear_partial(folder: pathlib.Path) -> None:
    """Removes the unfinished files of killed processes from a folder, once in a process.

    A file that is being written is locked. One that is a few seconds old may not be locked yet.
    """
    with _clearing:
        if folder in _cleared:
            return
        _cleared.add(folder)
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if _PARTIAL.fullmatch(path.name)]:
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - path.stat().st_mtime > _UNLOCKED_SECONDS:
                    path.unlink()


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Like `replacing`, for a path that the user chose: an `OSError` becomes a `UserError`."""
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); give another place"
        ) from error


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes `content` to the file `path` atomically. Raises `UserError` if that fails."""
    with writing(pathlib.Path(path)) as file:
        file.write(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to the file `path` atomically. Raises `UserError` if that fails."""
    write_bytes(path, text.encode())


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes arrays to the `.npz` file `path` atomically. Raises `UserError` if that fails."""
    with writing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type] # of NumPy's allow_pickle


@contextlib.contextmanager
def locked(path: pathlib.Path, busy: str, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock `path` during the block.

    The lock is the operating system's (POSIX, on NFS across nodes too): it ends with the process
    that holds it. On a file system without locks, a warning says that nothing stops a second
    process.

    Args:
        path: lock file.
        busy: error message while another process holds the lock; `{holder}` becomes its name.
        seconds: time to wait for another process.

    Raises:
        UserError: another process holds the lock, or the path is a pipe.
        OSError: the file cannot be opened.
    """
    with regular(path).open("a+") as file:
        deadline = time.monotonic() + seconds
        while not _take(file):
            if time.monotonic() > deadline:
                file.seek(0)
                raise UserError(busy.replace("{holder}", file.read().strip()))
            time.sleep(0.2)
        file.truncate(0)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {platform.node()} since {now}\n")
        file.flush()
        yield


def _take(file) -> bool:
    """Takes the lock if it is free; returns True on success, or if the file system has no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        what = (
            f"{file.name}: cannot be locked ({error.strerror}); make sure that no second process "
            "uses this folder"
        )
        print(printable(what), file=sys.stderr)
    return True
