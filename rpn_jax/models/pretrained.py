"""Reading weights that were trained elsewhere."""

import pathlib
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rpn_jax.errors import UserError
from rpn_jax.models import vgg

# The pixels that the VGG-16 of such a file was trained on, a name of `inputs.CONVENTIONS`.
VGG16_NPZ_CONVENTION = "caffe"


def load_vgg16_npz(path: str | pathlib.Path, params: Any, convention_name: str) -> Any:
    """Returns `params` of a `RegionProposalNetwork` on VGG-16 with the backbone read from `path`.

    The file is an `.npz` of `conv1_1_w` (HWIO) and `conv1_1_b` to `conv5_3_w` and `conv5_3_b`, in
    any float type, for BGR pixels of 0 to 255 minus the Caffe means. The result is float32; the
    head stays as it is in `params`. A backbone that ends before c5 takes the stages that it has.

    Raises a `UserError`, and loads nothing, where the model is configured for other pixels
    (`convention_name`) or is not a VGG-16, and where the file cannot be read or holds other
    names, shapes or types or a value that is not finite.
    """
    if convention_name != VGG16_NPZ_CONVENTION:
        raise UserError(
            f"config.model.input_convention: is {convention_name!r}, but the weights of {path} "
            f"were trained on {VGG16_NPZ_CONVENTION!r} input; set it to {VGG16_NPZ_CONVENTION!r}"
        )
    expected = _expected_shapes()
    names = {leaf: _array_name(leaf) for leaf in traverse_util.flatten_dict(params["backbone"])}
    if foreign := ["/".join(leaf) for leaf, name in names.items() if name not in expected]:
        raise UserError(
            f"config.model.backbone: the model has {_some(foreign)}, for which the VGG-16 weights "
            f"of {path} hold nothing; set it to 'vgg16' or train without pretrained weights"
        )
    arrays = _read_npz(path)
    if problems := _problems(arrays, expected):
        raise UserError(
            f"{path}: is not a file of VGG-16 convolutions: {problems}; give one that holds "
            f"conv1_1_w, conv1_1_b to conv5_3_w, conv5_3_b in (height, width, in, out) order"
        )
    backbone = {leaf: jnp.asarray(arrays[name], jnp.float32) for leaf, name in names.items()}
    return {**params, "backbone": traverse_util.unflatten_dict(backbone)}


def _expected_shapes() -> dict[str, tuple[int, ...]]:
    """The name and shape of each array of the file."""
    shapes = {}
    inputs = 3
    for number, (num_convolutions, channels) in enumerate(vgg.STAGES.values(), start=1):
        for i in range(1, num_convolutions + 1):
            shapes[f"conv{number}_{i}_w"] = (3, 3, inputs, channels)
            shapes[f"conv{number}_{i}_b"] = (channels,)
            inputs = channels
    return shapes


def _array_name(leaf: tuple[str, ...]) -> str:
    """The array of the file for a leaf of the backbone, ("c3", "conv3_1", "kernel")."""
    return f"{leaf[-2]}_{'w' if leaf[-1] == 'kernel' else 'b'}"


def _read_npz(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of an .npz file"
        ) from error
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        # A ValueError is a pickle, a TypeError an .npy, the others are a damaged archive.
        raise UserError(
            f"{path}: is damaged or not an .npz file of plain arrays; give another"
        ) from error


def _problems(arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]) -> str:
    """Says in what the arrays of a file differ from what is expected, "" if in nothing."""
    common = [name for name in expected if name in arrays]
    kinds = {
        "missing": [name for name in expected if name not in arrays],
        "unused": [name for name in arrays if name not in expected],
        "of another shape": [
            f"{name} {arrays[name].shape} instead of {expected[name]}"
            for name in common
            if arrays[name].shape != expected[name]
        ],
        "not of a float type": [
            name for name in common if not np.issubdtype(arrays[name].dtype, np.floating)
        ],
    }
    if not any(kinds.values()):
        kinds["not finite"] = [name for name in common if not np.isfinite(arrays[name]).all()]
    return ", ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: Iterable[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
