"""The folder of a run: its config, what it ran on, and what it must not be mixed with."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.training.config import differences, from_json, to_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain",
            "tensorflow-datasets", "opencv-python-headless", "rpn-jax")  # fmt: skip


def claim_workdir(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes the folder this config's own, or finds that it already is.

    Raises:
        UserError: the folder belongs to another config (names the fields that differ), or cannot
            be written.
    """
    file = workdir / "config.json"
    try:
        if file.exists():
            differing = differences(config, from_json(file.read_text()))
            if differing:
                raise UserError(
                    f"--workdir={workdir}: was begun with another config ({'; '.join(differing)}); "
                    "give another folder or the same config"
                )
            return
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(file, to_json(config))
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: {error.strerror}; give a folder to write to"
        ) from error


def load_workdir_config(workdir: pathlib.Path) -> ConfigDict:
    """Returns the config that the folder's run was begun with."""
    file = workdir / "config.json"
    if not file.is_file():
        raise UserError(f"--workdir={workdir}: no run was begun there (it has no config.json)")
    return from_json(file.read_text())


def record_run(workdir: pathlib.Path, **facts: object) -> None:
    """Appends to `runs.jsonl` what this start of the run is made of: a line for each start."""
    row = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        **facts,
        "commit": _git("rev-parse", "HEAD"),
        "local_changes": bool(_git("status", "--porcelain")),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "cpu": platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    with (workdir / "runs.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _git(*arguments: str) -> str | None:
    """What git says of the project's own checkout; None where it is not one."""
    package = pathlib.Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", package, *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


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
