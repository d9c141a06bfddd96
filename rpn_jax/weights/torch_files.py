"""Tensors of the state dicts that torch saves; see `pickles` for what cannot happen."""

import collections
import io
import math
import pathlib
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (makes bfloat16 known to NumPy)
import numpy as np

from rpn_jax.weights.bounds import Budget, lengths
from rpn_jax.weights.pickles import checked, dict_class, state_dict, unpickle

# What torch writes as the first of several pickles in files from before its version 1.6.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_TYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class _Tensor(NamedTuple):
    """A view of a storage, whose bytes may not have been read yet."""

    storage: tuple[str, str, int]  # key, element type, number of elements
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    @property
    def key(self) -> str:
        return self.storage[0]


def read_torch(path: pathlib.Path, budget: Budget) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict that torch saved, in its zip format or the older one."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _read_torch_zip(archive, budget)
        file.seek(0)
        return _read_torch_legacy(file, budget)


def _read_torch_zip(archive: zipfile.ZipFile, budget: Budget) -> dict[str, np.ndarray]:
    """`NAME/data.pkl` holds the structure, `NAME/data/KEY` the bytes of each storage."""
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    budget.spend(sum(entry.file_size for entry in archive.infolist()))
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError("big-endian")
    with archive.open(pickled) as file:
        tree = _unpickle(file, budget)
    return _arrays_of(tree, lambda key: archive.read(f"{folder}data/{key}"), budget)


def _read_torch_legacy(file: io.BufferedIOBase, budget: Budget) -> dict[str, np.ndarray]:
    """Pickles of a magic number, a version, the system, the structure and the keys; then bytes."""
    if _unpickle(file, budget) != _LEGACY_MAGIC:
        raise ValueError("no magic number")
    _unpickle(file, budget)
    _unpickle(file, budget)
    tree = _unpickle(file, budget)
    keys = _unpickle(file, budget)
    types = {tensor.key: tensor.storage[1] for tensor in state_dict(tree, _Tensor).values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[checked(key, str)] = file.read(count * np.dtype(types[key]).itemsize)
    return _arrays_of(tree, storages.__getitem__, budget)


def _unpickle(file: io.BufferedIOBase, budget: Budget) -> Any:
    """Returns what a pickle of torch holds, with `_Tensor` in place of tensors."""

    def rebuild_tensor(storage, offset, shape, strides, *_):
        (offset,) = lengths([offset])
        return _Tensor(checked(storage, tuple), offset, lengths(shape), lengths(strides))

    def storage(identity):
        kind, dtype, key, _, count = identity[:5]
        if checked(kind, str) != "storage":
            raise ValueError("no storage")
        return checked(key, str), checked(dtype, str), checked(count, int)

    allowed = {
        ("collections", "OrderedDict"): dict_class(budget),
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        **{("torch", name): dtype for name, dtype in _STORAGE_TYPES.items()},
    }
    return unpickle(file, allowed, storage)


def _arrays_of(
    tree: Any, read_storage: Callable[[str], bytes], budget: Budget
) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict as arrays of their own; reads each storage once."""
    tensors = state_dict(tree, _Tensor)
    arrays: dict[str, Any] = dict.fromkeys(tensors)
    by_key: dict[str, list[str]] = collections.defaultdict(list)
    for name, tensor in tensors.items():
        by_key[tensor.key].append(name)
    for key, names in by_key.items():
        content = read_storage(key)
        for name in names:
            arrays[name] = _view(tensors[name], content, budget)
    return arrays


def _view(tensor: _Tensor, content: bytes, budget: Budget) -> np.ndarray:
    """Returns a copy of the elements that a tensor has in its storage."""
    _, dtype, count = tensor.storage
    storage = np.frombuffer(content, dtype)
    if len(storage) != count:
        raise ValueError("another size than it says")
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
    elements = math.prod(tensor.shape)
    if elements > count or (elements and last >= count):
        raise ValueError("a tensor beyond its storage")
    budget.spend(elements * storage.itemsize)
    return np.lib.stride_tricks.as_strided(
        storage[tensor.offset :],
        tensor.shape,
        [stride * storage.itemsize for stride in tensor.strides],
    ).copy()
