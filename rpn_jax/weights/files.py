"""Reading the arrays of weight files of several formats; no file can make this run its own code.

What this project writes itself is a `.safetensors`.
"""

import errno
import json
import os
import pathlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

from rpn_jax.errors import UserError
from rpn_jax.weights.bounds import Budget, check_regular
from rpn_jax.weights.hdf5 import read_hdf5
from rpn_jax.weights.pickles import ForbiddenError, read_numpy_pickle
from rpn_jax.weights.torch_files import read_torch


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns a `.safetensors` file: the same bytes for the same arrays and metadata.

    The library alone writes the metadata in another order each time.
    """
    content = safetensors.numpy.save(dict(arrays), dict(metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the arrays begin at a multiple of 8 bytes
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of weights by name, in the order of the file.

    The suffix says the format: `.npz`; `.safetensors`; `.h5` or `.hdf5`, the weights or the whole
    of a Keras model, named "layer/array" (`.weights.h5` of Keras 3: "layer/number"); `.pth`, `.pt`
    or `.bin` as torch saves a state dict, in its zip format or in the one before; `.pkl` of NumPy
    arrays, as in detectron2's model zoo. The last two are pickles: they are read by an unpickler
    that knows tensors or arrays, dicts, lists and numbers, and nothing else that a pickle can name.
    A checkpoint that holds its state dict under "model" or "state_dict" is opened there.

    No file makes this read another one, wait, or take memory without bound.

    Raises:
        UserError: the file cannot be read, is damaged, holds no arrays, names anything but arrays,
            keeps some of them in another file, or is of another format.
    """
    path = pathlib.Path(path)
    if path.is_dir() or not path.exists():
        reason = os.strerror(errno.EISDIR if path.is_dir() else errno.ENOENT)
        raise UserError(f"{path}: cannot be read ({reason}); give the path of a file of weights")
    if path.suffix not in _READERS:
        raise UserError(
            f"{path}: weights are read from {', '.join(_READERS)} files; give one of those"
        )
    kind, read = _READERS[path.suffix]
    try:
        check_regular(path)
        arrays = read(path, Budget(path))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of {kind}"
        ) from error
    except ForbiddenError as error:
        raise UserError(
            f"{path}: is not {kind}: it wants to call {error}, which was not done; give a file "
            "that holds nothing but tensors"
        ) from error
    except _DAMAGED as error:
        raise UserError(f"{path}: is damaged or not {kind}; give another") from error
    if not arrays:
        raise UserError(f"{path}: holds no arrays; give a file of weights")
    return arrays


# A ValueError is a pickle inside an .npz, a TypeError an .npy, a RuntimeError an encrypted archive
# or a structure that is too deep; the others are what the readers and the unpickler's instructions
# raise when they meet nonsense.
_DAMAGED = (
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def _read_npz(path: pathlib.Path, budget: Budget) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        budget.spend(sum(entry.file_size for entry in archive.zip.infolist()))
        return {name: np.asarray(archive[name]) for name in archive.files}


def _read_safetensors(path: pathlib.Path, budget: Budget) -> dict[str, np.ndarray]:
    with path.open("rb"):  # its own error for a file that cannot be opened says less
        return safetensors.numpy.load_file(path)


_READERS = {
    ".npz": ("an .npz file of plain arrays", _read_npz),
    ".safetensors": ("a .safetensors file", _read_safetensors),
    **dict.fromkeys((".h5", ".hdf5"), ("an .h5 file that Keras wrote", read_hdf5)),
    ".pkl": ("a .pkl file of NumPy arrays", read_numpy_pickle),
    **dict.fromkeys((".pth", ".pt", ".bin"), ("a state dict that torch saved", read_torch)),
}
