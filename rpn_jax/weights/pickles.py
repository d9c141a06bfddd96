"""Arrays of pickles that torch and detectron2 write; no pickle can make this run its own code.

The unpickler knows arrays, dicts, lists and numbers, and nothing else that a pickle can name. It is
the one in Python of the standard library: the one in C hashes whatever a pickle has as the key of a
dict, and a tuple of tuples of tuples, 40 deep in 200 bytes, keeps it busy for hours. For the same
reason nothing of a pickle is compared, formatted or hashed here before its type is known, and what
an instruction copies is short or counted.
"""

import collections
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (makes bfloat16 known to NumPy)
import numpy as np

from rpn_jax.weights.bounds import Budget, lengths

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
_KEYS = (str, bytes, int, float, bool)
_MOST_PARTS = 64  # of the arguments of a call, and of the attributes of an object
_ENTRY_BYTES = 128  # of a dict, about


class ForbiddenError(Exception):
    """A pickle names something that it may not have."""


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
    types = {tensor.key: tensor.storage[1] for tensor in _state_dict(tree, _Tensor).values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[_checked(key, str)] = file.read(count * np.dtype(types[key]).itemsize)
    return _arrays_of(tree, storages.__getitem__, budget)


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"no {kind.__name__}")
    return value


class _Unpickler(pickle._Unpickler):
    """Reads a pickle that names nothing but what is `allowed`, by what that gives."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(
        self,
        file: io.BufferedIOBase,
        allowed: dict[tuple[str, str], Any],
        persistent_load: Callable[[Any], Any] | None = None,
        encoding: str = "ASCII",
    ):
        super().__init__(file, encoding=encoding)
        self._allowed = allowed
        if persistent_load is not None:
            self.persistent_load = persistent_load

    def find_class(self, module, name):
        if (module, name) not in self._allowed:
            raise ForbiddenError(f"{module}.{name}"[:80])
        return self._allowed[module, name]

    def load_setitem(self):
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        _check_keys(self.stack[::2])  # what stands above the mark
        super().load_setitems()

    def load_dict(self):
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_reduce(self):
        self._check_short()
        super().load_reduce()

    def load_newobj(self):
        self._check_short()
        super().load_newobj()

    def load_build(self):
        self._check_short()
        super().load_build()

    def _check_short(self):
        if len(self.stack[-1]) > _MOST_PARTS:
            raise ValueError("too many arguments or attributes")

    def load_bytearray8(self):
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(count)))  # no more than there is

    def load_set(self):
        raise ValueError("a set")

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    for opcode in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        dispatch[opcode[0]] = load_set


def _check_keys(keys: Iterable[Any]) -> None:
    if not all(type(key) in _KEYS for key in keys):
        raise ValueError("a key that is no word and no number")


def _dict_class(budget: Budget) -> type:
    # Made anew for each file: what a pickle may name, it may also try to change.
    class Dict(dict):
        """Stands for OrderedDict, to which torch gives attributes."""

        def __init__(self, items=()):
            budget.spend(_ENTRY_BYTES * len(items))
            items = [tuple(item) for item in items]
            _check_keys(key for key, _ in items)
            super().__init__(items)

    return Dict


def _unpickle(file: io.BufferedIOBase, budget: Budget) -> Any:
    """Returns what a pickle of torch holds, with `_Tensor` in place of tensors."""

    def rebuild_tensor(storage, offset, shape, strides, *_):
        (offset,) = lengths([offset])
        return _Tensor(_checked(storage, tuple), offset, lengths(shape), lengths(strides))

    def storage(identity):
        kind, dtype, key, _, count = identity[:5]
        if _checked(kind, str) != "storage":
            raise ValueError("no storage")
        return _checked(key, str), _checked(dtype, str), _checked(count, int)

    allowed = {
        ("collections", "OrderedDict"): _dict_class(budget),
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        **{("torch", name): dtype for name, dtype in _STORAGE_TYPES.items()},
    }
    return _Unpickler(file, allowed, storage).load()


def read_numpy_pickle(path: pathlib.Path, budget: Budget) -> dict[str, np.ndarray]:
    """Reads a pickle in which arrays are built as NumPy itself would, by stand-ins of its names."""

    # Made anew for each file, as `Dict` is.
    class Array:
        """An array without content, which its state then brings."""

        def __init__(self, *_):
            pass

        def __setstate__(self, state):
            _, shape, dtype, fortran, content = state
            self.value = array_of(content, dtype, shape, "F" if fortran else "C")

    class DType:
        def __init__(self, name, *_):
            self.name = _checked(name, str)

        def __setstate__(self, state):
            self.name = _checked(state[1], str) + self.name  # the byte order

    def array_of(content, dtype, shape, order):
        if not isinstance(content, bytes | bytearray) or not isinstance(dtype, DType):
            raise ValueError("no content")
        return np.frombuffer(content, dtype.name).reshape(lengths(shape), order=order)

    def from_buffer(content, dtype, shape, order, axes=None):  # protocol 5
        array = Array()
        order = "C" if _checked(order, str) == "K" else order
        array.value = array_of(content, dtype, shape, order)
        if axes is not None:
            array.value = array.value.transpose(lengths(axes))
        return array

    def encode(text, encoding):  # how bytes are written in protocol 2
        if _checked(encoding, str) != "latin1":
            raise ValueError("no bytes")
        budget.spend(len(_checked(text, str)))
        return text.encode("latin1")

    allowed = {
        ("collections", "OrderedDict"): _dict_class(budget),
        ("_codecs", "encode"): encode,
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): DType,
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        allowed[f"{core}.multiarray", "_reconstruct"] = Array
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    with path.open("rb") as file:
        tree = _Unpickler(file, allowed, encoding="latin1").load()
    arrays = {}
    for name, array in _state_dict(tree, Array).items():
        budget.spend(array.value.nbytes)
        arrays[name] = array.value.copy()
    return arrays


def _state_dict(tree: Any, kind: type) -> dict[str, Any]:
    """Returns the leaves of a kind in a state dict, or in the one that is in a checkpoint."""
    for name in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(name), dict):
            tree = tree[name]
    leaves = {
        name: leaf for name, leaf in tree.items() if type(name) is str and isinstance(leaf, kind)
    }
    if not leaves:
        raise ValueError("no arrays")
    return leaves


def _arrays_of(
    tree: Any, read_storage: Callable[[str], bytes], budget: Budget
) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict as arrays of their own; reads each storage once."""
    tensors = _state_dict(tree, _Tensor)
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
