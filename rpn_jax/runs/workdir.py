"""The folder of a run: its config, and its lock against other runs."""

import contextlib
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.files import locked, regular, write_text
from rpn_jax.runs import processes
from rpn_jax.runs.config_files import differences, from_json, located, to_json


@contextlib.contextmanager
def claim_workdir(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """Claims the folder for this config, and holds its lock during the block.

    With several processes the first holds the lock for all, see `files.locked`.

    Raises:
        UserError: another run is at work there, the folder belongs to another config (names the
            fields that differ), or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        processes.on_first(lambda: _claim(workdir, config, held))
        yield


def _claim(workdir: pathlib.Path, config: ConfigDict, held: contextlib.ExitStack) -> None:
    file = workdir / "config.json"
    lock_workdir(workdir, held)
    try:
        if file.exists():
            differing = differences(config, _read(file))
            if differing:
                raise UserError(
                    f"--workdir={workdir}: was begun with another config ({'; '.join(differing)}); "
                    "give the same config or another folder, to which train --from takes along "
                    "what this run has learnt"
                )
        elif any((workdir / "checkpoints").glob("*")):
            raise UserError(
                f"--workdir={workdir}: has checkpoints, but no config.json that says of which "
                "config; put its config.json back, or give another folder"
            )
        else:
            write_text(file, to_json(located(config)))
    except OSError as error:
        raise _unwritable(workdir, error) from error


def lock_workdir(workdir: pathlib.Path, held: contextlib.ExitStack) -> None:
    """Makes the folder, and locks it until `held` is closed.

    Raises:
        UserError: another run is at work there, or the folder cannot be written.
    """
    busy = (
        f"--workdir={workdir}: a run is at work there ({{holder}}); wait for its end, or give "
        "another folder"
    )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(workdir / "lock", busy))
    except OSError as error:
        raise _unwritable(workdir, error) from error


def _unwritable(workdir: pathlib.Path, error: OSError) -> UserError:
    return UserError(f"--workdir={workdir}: {error.strerror}; give a folder to write to")


def load_workdir_config(workdir: pathlib.Path) -> ConfigDict:
    """Returns the config of the folder's run."""
    file = workdir / "config.json"
    if not file.is_file():
        raise not_begun(f"--workdir={workdir}", workdir, "--weights=")
    return _read(file)


def not_begun(where: str, workdir: pathlib.Path, flag: str = "") -> UserError:
    """Returns the error of a folder without a run, named `where`; it may have a model file."""
    models = sorted(workdir.glob("*.safetensors"))
    instead = f"; it has a model file: give {flag}{models[0]}" if models else ""
    return UserError(f"{where}: no run was begun there (it has no config.json){instead}")


def _read(file: pathlib.Path) -> ConfigDict:
    # A damaged byte gives other JSON, or none; the message then names the file.
    return from_json(regular(file).read_text(errors="replace"), str(file))
