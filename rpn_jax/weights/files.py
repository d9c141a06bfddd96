"""Reading the arrays of weight files of several formats; no file can make this run its own code."""

import io
import math
import pathlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (makes bfloat16 known to NumPy)
import numpy as np
import safetensors
import safetensors.numpy

from rpn_jax.errors import UserError

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


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of weights by name, in the order of the file.

    The suffix says the format: `.npz`; `.safetensors`; `.h5` or `.hdf5`, the weights or the whole
    of a Keras model, named "layer/array" (`.weights.h5` of Keras 3: "layer/number"); `.pth`, `.pt`
    or `.bin` as torch saves a state dict, in its zip format or in the one before; `.pkl` of NumPy
    arrays, as in detectron2's model zoo. The last two are pickles: they are read by an unpickler
    that knows tensors or arrays, dicts, lists and numbers, and nothing else that a pickle can name.
    A checkpoint that holds its state dict under "model" or "state_dict" is opened there.

    Raises:
        UserError: the file cannot be read, is damaged, names anything but arrays, or is of another
            format.
    """
    path = pathlib.Path(path)
    if path.suffix not in _READERS:
        raise UserError(
            f"{path}: weights are read from {', '.join(_READERS)} files; give one of those"
        )
    kind, read = _READERS[path.suffix]
    try:
        return read(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of {kind}"
        ) from error
    except _ForbiddenError as error:
        raise UserError(
            f"{path}: is not {kind}: it wants to call {error}, which was not done; give a file "
            "that holds nothing but tensors"
        ) from error
    except _DAMAGED as error:
        raise UserError(f"{path}: is damaged or not {kind}; give another") from error


class _ForbiddenError(Exception):
    """A pickle names something that it may not have."""


# A ValueError is a pickle inside an .npz, a TypeError an .npy; the others are what the readers and
# the unpickler's instructions raise when they meet nonsense.
_DAMAGED = (
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: np.asarray(archive[name]) for name in archive.files}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    with path.open("rb"):  # its own error for a file that cannot be opened says less
        return safetensors.numpy.load_file(path)


def _read_hdf5(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the groups that Keras made for layers, wherever in the file they are."""
    import h5py  # 11 MB of memory, which no other format needs

    arrays = {}

    def read_layer(place, group):
        if "weight_names" in group.attrs:
            layer = place.rpartition("/")[2]
            for stored in map(_text, group.attrs["weight_names"]):
                name = stored.removesuffix(":0")
                arrays[name if "/" in name else f"{layer}/{name}"] = np.asarray(group[stored])
        elif "name" in group.attrs and isinstance(group, h5py.Group):  # of Keras 3
            for number, array in group.items():
                arrays[f"{_text(group.attrs['name'])}/{number}"] = np.asarray(array)

    with path.open("rb") as file:
        try:
            with h5py.File(file) as root:
                root.visititems(read_layer)
        except (OSError, RuntimeError) as error:  # what HDF5 raises when it meets nonsense
            raise ValueError(str(error)) from error
    if not arrays:
        raise ValueError("no layers")
    return arrays


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class _Tensor(NamedTuple):
    """A view of a storage, whose bytes may not have been read yet."""

    storage: tuple[str, str, int]  # key, element type, number of elements
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _read_torch_zip(archive)
        file.seek(0)
        return _read_torch_legacy(file)


def _read_torch_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """`NAME/data.pkl` holds the structure, `NAME/data/KEY` the bytes of each storage."""
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError("big-endian")
    with archive.open(pickled) as file:
        tree = _unpickle(file)
    return _arrays_of(tree, lambda key: archive.read(f"{folder}data/{key}"))


def _read_torch_legacy(file: io.BufferedIOBase) -> dict[str, np.ndarray]:
    """Pickles of a magic number, a version, the system, the structure and the keys; then bytes."""
    if _unpickle(file) != _LEGACY_MAGIC:
        raise ValueError("no magic number")
    _unpickle(file)
    _unpickle(file)
    tree = _unpickle(file)
    keys = _unpickle(file)
    types = {tensor.storage[0]: tensor.storage[1] for tensor in _state_dict(tree, _Tensor).values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = file.read(count * np.dtype(types[key]).itemsize)
    return _arrays_of(tree, storages.__getitem__)


def _unpickle(file: io.BufferedIOBase) -> Any:
    """Returns what a pickle of torch holds, with `_Tensor` in place of tensors."""

    # Made anew for each file: what a pickle may name, it may also try to change.
    class Dict(dict):
        """Stands for OrderedDict, to which torch gives attributes."""

    def rebuild_tensor(storage, offset, shape, strides, *_):
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def storage(identity):
        kind, dtype, key, _, count, *_ = identity
        if kind != "storage":
            raise ValueError("no storage")
        return key, dtype, count

    allowed = {
        ("collections", "OrderedDict"): Dict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        **{("torch", name): dtype for name, dtype in _STORAGE_TYPES.items()},
    }

    return _load_pickle(file, allowed, storage)


def _load_pickle(
    file: io.BufferedIOBase,
    allowed: dict[tuple[str, str], Any],
    persistent_load: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
) -> Any:
    """Returns what a pickle holds that names nothing but what is `allowed`, by what that gives."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) not in allowed:
                raise _ForbiddenError(f"{module}.{name}")
            return allowed[module, name]

    unpickler = Unpickler(file, encoding=encoding)
    if persistent_load is not None:
        unpickler.persistent_load = persistent_load
    return unpickler.load()


def _read_numpy_pickle(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a pickle in which arrays are built as NumPy itself would, by stand-ins of its names."""

    # Made anew for each file: what a pickle may name, it may also try to change.
    class Array:
        """An array without content, which its state then brings."""

        def __init__(self, *_):
            pass

        def __setstate__(self, state):
            _, shape, dtype, fortran, content = state
            self.value = array_of(content, dtype, shape, "F" if fortran else "C")

    class DType:
        def __init__(self, name, *_):
            self.name = name

        def __setstate__(self, state):
            self.name = state[1] + self.name  # the byte order

    class Dict(dict):
        """Stands for OrderedDict."""

    def array_of(content, dtype, shape, order):
        return np.frombuffer(content, dtype.name).reshape(shape, order=order)

    def from_buffer(content, dtype, shape, order, axes=None):  # protocol 5
        array = Array()
        array.value = array_of(content, dtype, shape, "C" if order == "K" else order)
        if axes is not None:
            array.value = array.value.transpose(axes)
        return array

    def encode(text, encoding):  # how bytes are written in protocol 2
        if encoding != "latin1":
            raise ValueError("no bytes")
        return text.encode("latin1")

    allowed = {
        ("collections", "OrderedDict"): Dict,
        ("_codecs", "encode"): encode,
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): DType,
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        allowed[f"{core}.multiarray", "_reconstruct"] = Array
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    with path.open("rb") as file:
        tree = _load_pickle(file, allowed, encoding="latin1")
    return {name: array.value.copy() for name, array in _state_dict(tree, Array).items()}


def _state_dict(tree: Any, kind: type) -> dict[str, Any]:
    """Returns the leaves of a kind in a state dict, or in the one that is in a checkpoint."""
    for name in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(name), dict):
            tree = tree[name]
    leaves = {name: leaf for name, leaf in tree.items() if isinstance(leaf, kind)}
    if not leaves:
        raise ValueError("no arrays")
    return leaves


def _arrays_of(tree: Any, read_storage: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict as arrays of their own."""
    arrays = {}
    for name, tensor in _state_dict(tree, _Tensor).items():
        key, dtype, count = tensor.storage
        storage = np.frombuffer(read_storage(key), dtype)
        if len(storage) != count or min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
            raise ValueError("another size than it says")
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
        elements = math.prod(tensor.shape)
        if elements > count or (elements and last >= count):
            raise ValueError("a tensor beyond its storage")
        arrays[name] = np.lib.stride_tricks.as_strided(
            storage[tensor.offset :],
            tensor.shape,
            [stride * storage.itemsize for stride in tensor.strides],
        ).copy()
    return arrays


_READERS = {
    ".npz": ("an .npz file of plain arrays", _read_npz),
    ".safetensors": ("a .safetensors file", _read_safetensors),
    **dict.fromkeys((".h5", ".hdf5"), ("an .h5 file that Keras wrote", _read_hdf5)),
    ".pkl": ("a .pkl file of NumPy arrays", _read_numpy_pickle),
    **dict.fromkeys((".pth", ".pt", ".bin"), ("a state dict that torch saved", _read_torch)),
}
