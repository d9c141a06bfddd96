"""A network in one file: its arrays, and in the file's metadata the config that they belong to.

The file is a `.safetensors`, which every framework reads without running anything. Its arrays are
float32 under the names of the network's leaves, such as `params/backbone/c3/conv3_1/kernel`; its
metadata hold `rpn_jax` (the version that wrote it), `config` (JSON), `source` (where the arrays
came from) and, of a network that was trained here, `step`. It may hold a backbone alone.
"""

import importlib.metadata
import pathlib
from typing import Any, NamedTuple

import numpy as np
import safetensors
from flax import traverse_util
from ml_collections import ConfigDict

from rpn_jax.errors import UserError, list_some
from rpn_jax.files import write_bytes
from rpn_jax.models.rcnn import current_path
from rpn_jax.runs.config_files import from_json, to_json
from rpn_jax.weights.bounds import check_regular
from rpn_jax.weights.files import read_arrays, safetensors_bytes

SUFFIX = ".safetensors"
_PACKAGE = "rpn_jax"


class Model(NamedTuple):
    """What a model file holds."""

    config: ConfigDict
    collections: dict[str, Any]  # trees of NumPy arrays: "params", "batch_stats" where there are
    source: str
    step: int | None


def write_model(
    path: str | pathlib.Path,
    config: ConfigDict,
    collections: dict[str, Any],
    *,
    source: str,
    step: int | None = None,
) -> None:
    """Writes a model file, whole or not at all, and the folders above it.

    Args:
        path: ends in `.safetensors`.
        config: of the network.
        collections: its variables, or those of its backbone, as trees of arrays.
        source: where the arrays came from, for whoever finds the file.
        step: how many steps they were trained here.

    Raises:
        UserError: the name ends otherwise, or the file cannot be written.
    """
    path = pathlib.Path(path)
    check_suffix(path)
    # The bytes are written as they lie in memory, whatever the strides.
    arrays = {
        name: np.asarray(array, np.float32, order="C") for name, array in flat_names(collections)
    }
    metadata = {
        _PACKAGE: importlib.metadata.version(_PACKAGE),
        "config": to_json(config),
        "source": source,
    }
    if step is not None:
        metadata["step"] = str(step)
    write_bytes(path, safetensors_bytes(arrays, metadata))


def check_suffix(path: pathlib.Path) -> None:
    """Raises a `UserError` unless the name is one of a model file."""
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: a model file ends in {SUFFIX}; give it such a name")


def flat_names(collections: dict[str, Any]) -> list[tuple[str, Any]]:
    """Returns the leaves of the trees beside their names in a model file, sorted by name."""
    return sorted(traverse_util.flatten_dict(collections, sep="/").items())


def is_model_file(path: str | pathlib.Path) -> bool:
    """Returns whether a file says that it is a model file; what cannot be read does not."""
    return _PACKAGE in _metadata(pathlib.Path(path))


def read_model(path: str | pathlib.Path) -> Model:
    """Returns what a model file holds.

    Raises:
        UserError: it cannot be read, is damaged, is no model file, or has a config that this
            version of the project does not know.
    """
    path = pathlib.Path(path)
    arrays = read_arrays(path)
    metadata = _metadata(path)
    if _PACKAGE not in metadata:
        raise UserError(
            f"{path}: holds arrays, but is not a model file; write one with rpn-jax "
            "export-weights, or from another project's weights with import-weights"
        )
    config = from_json(metadata.get("config", ""), f"{path}: its config")
    step = int(metadata["step"]) if metadata.get("step", "").isdecimal() else None
    collections = {current_path(name.split("/")): array for name, array in arrays.items()}
    return Model(
        config, traverse_util.unflatten_dict(collections), metadata.get("source", ""), step
    )


def check_fits(path: str | pathlib.Path, collections: dict[str, Any], expected: Any) -> None:
    """Raises a `UserError` unless the trees have the leaves and shapes that are `expected`.

    `path` is the file that they came from; `expected` holds arrays or their shapes.
    """
    found = {name: tuple(array.shape) for name, array in flat_names(collections)}
    wanted = {name: tuple(array.shape) for name, array in flat_names(expected)}
    shapes = (
        f"{name} {shape} instead of {wanted[name]}"
        for name, shape in found.items()
        if name in wanted and shape != wanted[name]
    )
    differences = {
        "missing": sorted(wanted.keys() - found.keys()),
        "left over": sorted(found.keys() - wanted.keys()),
        "of another shape": list(shapes),
    }
    if any(differences.values()):
        problems = (
            f"{kind}: {list_some(names, 3)}" for kind, names in differences.items() if names
        )
        raise UserError(
            f"{path}: does not fit config.model: {', '.join(problems)}; "
            "give the file of this network, or correct the fields of config.model"
        )


def _metadata(path: pathlib.Path) -> dict[str, str]:
    """Returns the metadata of a `.safetensors`, nothing where there is no such file."""
    if path.suffix != SUFFIX:
        return {}
    try:
        check_regular(path)
        with safetensors.safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return {}
