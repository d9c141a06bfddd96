"""The folder of a run: its config, and what it must not be mixed with."""

import contextlib
import datetime
import fcntl
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.training import processes
from rpn_jax.training.config import differences, from_json, to_json

# So long a run waits for one that was killed and has not given its lock back yet.
_LOCK_SECONDS = 5


@contextlib.contextmanager
def claim_workdir(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """Makes the folder this config's own, or finds that it already is; keeps other runs out.

    The lock is the operating system's (POSIX, which NFS carries to other nodes too): it ends with
    the process that holds it, however that ends. Where the file system knows no locks, a warning
    says that nothing stops a second run. With several processes the first holds it for all.

    Raises:
        UserError: another run is at work there, the folder belongs to another config (names the
            fields that differ), or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        processes.on_first(lambda: _claim(workdir, config, held))
        yield


def _claim(workdir: pathlib.Path, config: ConfigDict, held: contextlib.ExitStack) -> None:
    file = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _lock(workdir, held)
        if file.exists():
            differing = differences(config, from_json(file.read_text(), str(file)))
            if differing:
                raise UserError(
                    f"--workdir={workdir}: was begun with another config ({'; '.join(differing)}); "
                    "give another folder or the same config"
                )
        else:
            write_text(file, to_json(config))
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: {error.strerror}; give a folder to write to"
        ) from error


def _lock(workdir: pathlib.Path, held: contextlib.ExitStack) -> None:
    path = workdir / "lock"
    file = held.enter_context(path.open("a+"))
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except (BlockingIOError, PermissionError) as error:
            if time.monotonic() > deadline:
                file.seek(0)
                raise UserError(
                    f"--workdir={workdir}: a run is at work there ({file.read().strip()}); "
                    "wait for its end, or give another folder"
                ) from error
            time.sleep(0.2)
        except OSError as error:
            print(
                f"{path}: cannot be locked ({error.strerror}); make sure that no second run uses "
                "this folder",
                file=sys.stderr,
            )
            break
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()} since {_now()}\n")
    file.flush()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def load_workdir_config(workdir: pathlib.Path) -> ConfigDict:
    """Returns the config that the folder's run was begun with."""
    file = workdir / "config.json"
    if not file.is_file():
        raise UserError(f"--workdir={workdir}: no run was begun there (it has no config.json)")
    return from_json(file.read_text())


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file that is there whole or not at all, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all, and the folders above it.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); give another place"
        ) from error


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes an `.npz` that is there whole or not at all, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)
