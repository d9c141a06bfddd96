"""Pickles that hold arrays, as detectron2 writes them; no pickle can make this run its own code.

The unpickler knows arrays, dicts, lists and numbers, and nothing else that a pickle can name. It is
the one in Python of the standard library: the one in C hashes whatever a pickle has as the key of a
dict, and a tuple of tuples of tuples, 40 deep in 200 bytes, keeps it busy for hours. For the same
reason nothing of a pickle is compared, formatted or hashed here before its type is known, and what
an instruction copies is short or counted.
"""

import functools
import io
import pathlib
import pickle
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rpn_jax.weights.bounds import Budget, lengths

_KEYS = (str, bytes, int, float, bool)
_MOST_PARTS = 64  # of the arguments of a call, and of the attributes of an object
_ENTRY_BYTES = 128  # of a dict, about


class ForbiddenError(Exception):
    """A pickle names something that it may not have."""


def checked(value: Any, kind: type) -> Any:
    """Returns a value of exactly that type; raises a `ValueError` for another."""
    if type(value) is not kind:
        raise ValueError(f"no {kind.__name__}")
    return value


def unpickle(
    file: io.BufferedIOBase,
    allowed: dict[tuple[str, str], Any],
    persistent_load: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
) -> Any:
    """Returns what a pickle holds that names nothing but what is `allowed`, by what that gives.

    Raises:
        ForbiddenError: it names something else.
        ValueError: it holds what no file of arrays does; `files` lists what damaged ones raise.
    """
    unpickler = _Unpickler(file, encoding=encoding)
    unpickler.allowed = allowed
    if persistent_load is not None:
        unpickler.persistent_load = persistent_load
    return unpickler.load()


class _Unpickler(pickle._Unpickler):
    """The instructions that are read otherwise than by the standard library."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise ForbiddenError(f"{module}.{name}"[:80])
        return self.allowed[module, name]

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


def dict_class(budget: Budget) -> type:
    """Returns what stands for OrderedDict, to which torch gives attributes.

    It is made anew for each file: what a pickle may name, it may also try to change.
    """

    class Dict(dict):
        def __init__(self, items=()):
            budget.spend(_ENTRY_BYTES * len(items))
            items = [tuple(item) for item in items]
            _check_keys(key for key, _ in items)
            super().__init__(items)

    return Dict


def read_numpy_pickle(path: pathlib.Path, budget: Budget) -> dict[str, np.ndarray]:
    """Reads a pickle in which arrays are built as NumPy itself would, by stand-ins of its names."""
    allowed, kind = _numpy_names(budget)
    with path.open("rb") as file:
        tree = unpickle(file, allowed, encoding="latin1")
    arrays = {}
    for name, array in state_dict(tree, kind).items():
        budget.spend(array.value.nbytes)
        arrays[name] = array.value.copy()
    return arrays


def _numpy_names(budget: Budget) -> tuple[dict[tuple[str, str], Any], type]:
    """Returns what a pickle of arrays names, made anew for each file, and the class of an array."""

    class Array:
        """An array without content, which its state then brings."""

        def __init__(self, *_):
            pass

        def __setstate__(self, state):
            _, shape, dtype, fortran, content = state
            self.value = array_of(content, dtype, shape, "F" if fortran else "C")

    class DType:
        def __init__(self, name, *_):
            self.name = checked(name, str)

        def __setstate__(self, state):
            self.name = checked(state[1], str) + self.name  # the byte order

    def array_of(content, dtype, shape, order):
        if not isinstance(content, bytes | bytearray) or not isinstance(dtype, DType):
            raise ValueError("no content")
        return np.frombuffer(content, dtype.name).reshape(lengths(shape), order=order)

    def from_buffer(content, dtype, shape, order, axes=None):  # protocol 5
        array = Array()
        order = "C" if checked(order, str) == "K" else order
        array.value = array_of(content, dtype, shape, order)
        if axes is not None:
            array.value = array.value.transpose(lengths(axes))
        return array

    names = {
        ("collections", "OrderedDict"): dict_class(budget),
        ("_codecs", "encode"): functools.partial(_encode, budget),
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): DType,
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        names[f"{core}.multiarray", "_reconstruct"] = Array
        names[f"{core}.numeric", "_frombuffer"] = from_buffer
    return names, Array


def _encode(budget: Budget, text: Any, encoding: Any) -> bytes:
    """Stands for `codecs.encode`, with which protocol 2 writes bytes."""
    if checked(encoding, str) != "latin1":
        raise ValueError("no bytes")
    budget.spend(len(checked(text, str)))
    return text.encode("latin1")


def state_dict(tree: Any, kind: type) -> dict[str, Any]:
    """Returns the leaves of a kind in a state dict, or in the one that is in a checkpoint."""
    for name in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(name), dict):
            tree = tree[name]
    leaves = {
        name: leaf for name, leaf in tree.items() if type(name) is str and isinstance(leaf, kind)
    }
    if tree and not leaves:
        raise ValueError("no arrays")
    return leaves
