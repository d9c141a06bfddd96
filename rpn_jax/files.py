"""Files that appear whole or not at all, and locks: once for the whole package."""

import contextlib
import datetime
import fcntl
import os
import pathlib
import platform
import sys
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from rpn_jax.errors import UserError
from rpn_jax.text import printable

# So long a lock waits for a process that was killed and has not given it back yet.
_LOCK_SECONDS = 5


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path` when the block ends without an error.

    Folders above it are made. Several processes may write one path at once: each writes a file of
    its own, and the last to end wins. An `OSError` is passed on, and nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


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
    """Puts `content` into the file `path` at once. Raises `UserError` if that fails."""
    with writing(pathlib.Path(path)) as file:
        file.write(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Puts `text` into the file `path` at once. Raises `UserError` if that fails."""
    write_bytes(path, text.encode())


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Puts arrays into the `.npz` file `path` at once. Raises `UserError` if that fails."""
    with writing(path) as file:
        np.savez_compressed(file, **arrays)


@contextlib.contextmanager
def locked(path: pathlib.Path, busy: str, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock `path` during the block; `busy` says what to do if another process has it.

    Another process is waited for, so many seconds.

    The lock is the operating system's (POSIX, which NFS carries to other nodes too): it ends with
    the process that holds it, however that ends. Where the file system knows no locks, a warning
    says that nothing stops a second process.

    Raises:
        UserError: another process holds it; `busy` has `{holder}` where that one is named.
        OSError: the file cannot be opened.
    """
    with path.open("a+") as file:
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
    """Takes the lock if it is free; True also where the file system knows no locks."""
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
