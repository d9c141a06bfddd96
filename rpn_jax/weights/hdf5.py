"""Arrays of the `.h5` files that Keras writes; nothing outside the file is read."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from rpn_jax.errors import UserError
from rpn_jax.weights.bounds import Budget, size_in_bytes

_DEEPEST = 64  # groups in groups; Keras makes a handful


def read_hdf5(path: pathlib.Path, budget: Budget) -> dict[str, np.ndarray]:
    """Reads the groups that Keras made for layers, wherever in the file they are.

    HDF5 can lay the content of an array into any other file: as external storage, by an external
    link, as a virtual dataset of others. Then that file, whatever it is, would come into the model
    file. So would what a soft link leads to through such a link.

    Raises:
        UserError: any object of the file is of that kind, used or not.
        ValueError: it is damaged, or not by Keras.
    """
    import h5py  # 11 MB of memory, which no other format needs

    arrays = {}

    def read(group, place: str) -> np.ndarray:
        dataset = group[place]
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiub":
            raise ValueError("no array of numbers")
        budget.spend(size_in_bytes(dataset.shape, dataset.dtype.itemsize))
        return np.asarray(dataset)

    def read_layer(place, group):
        if "weight_names" in group.attrs:
            layer = place.rpartition("/")[2]
            for stored in map(_text, group.attrs["weight_names"]):
                name = stored.removesuffix(":0")
                arrays[name if "/" in name else f"{layer}/{name}"] = read(group, stored)
        elif "name" in group.attrs and isinstance(group, h5py.Group):  # of Keras 3
            for number in group:
                arrays[f"{_text(group.attrs['name'])}/{number}"] = read(group, number)

    try:
        with h5py.File(path) as root:
            for place, item in list(_objects(path, root)):  # all of them are checked before
                read_layer(place, item)
    except (OSError, RuntimeError) as error:  # what HDF5 raises when it meets nonsense
        raise ValueError(str(error)) from error
    if not arrays:
        raise ValueError("no layers")
    return arrays


def _objects(
    path: pathlib.Path, group: Any, above: Sequence[str] = (), seen: set[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yields place and object of all that is below a group, each once.

    Raises:
        UserError: the content of one may be outside the file.
        ValueError: groups lie in groups without end.
    """
    import h5py

    if len(above) > _DEEPEST:
        raise ValueError("too deep")
    seen = set() if seen is None else seen
    for name in group:
        place = "/".join([*above, name])
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "an external" if isinstance(link, h5py.ExternalLink) else "a soft"
            whereto = [getattr(link, field, "") for field in ("filename", "path")]
            _refuse(path, f"{place} is {kind} link ({', '.join(filter(None, whereto))})")
        item = group[name]
        if isinstance(item, h5py.Dataset) and item.external:
            _refuse(path, f"{place} is stored in another file ({_text(item.external[0][0])})")
        if isinstance(item, h5py.Dataset) and item.is_virtual:
            _refuse(path, f"{place} is a virtual dataset (made of others)")
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        yield place, item
        if isinstance(item, h5py.Group):
            yield from _objects(path, item, (*above, name), seen)


def _refuse(path: pathlib.Path, what: str) -> NoReturn:
    raise UserError(
        f"{path}: {what}, which is not followed; give a file that holds all of its arrays itself"
    )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
