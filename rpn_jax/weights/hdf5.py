"""Arrays of the `.h5` files that Keras writes; nothing outside the file is read."""

import pathlib
from typing import Any

import numpy as np

from rpn_jax.errors import UserError
from rpn_jax.weights.bounds import Budget, size_in_bytes


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
            _check_inside(path, root)
            root.visititems(read_layer)
    except (OSError, RuntimeError) as error:  # what HDF5 raises when it meets nonsense
        raise ValueError(str(error)) from error
    if not arrays:
        raise ValueError("no layers")
    return arrays


def _check_inside(path: pathlib.Path, root: Any) -> None:
    """Raises a `UserError` for the first object whose content may be outside the file."""
    import h5py

    # What these return ends the walk; an error would be lost in the library's own code.
    def in_link(place, link):
        if isinstance(link, h5py.ExternalLink):
            return f"{_text(place)} is an external link ({link.filename}, {link.path})"
        if not isinstance(link, h5py.HardLink):
            return f"{_text(place)} is a soft link ({getattr(link, 'path', 'of another kind')})"
        return None

    def in_object(place, item):
        if isinstance(item, h5py.Dataset) and item.external:
            return f"{_text(place)} is stored in another file ({_text(item.external[0][0])})"
        if isinstance(item, h5py.Dataset) and item.is_virtual:
            return f"{_text(place)} is a virtual dataset (made of others)"
        return None

    if found := root.visititems_links(in_link) or root.visititems(in_object):
        raise UserError(
            f"{path}: {found}, which is not followed; give a file that holds all of its arrays "
            "itself"
        )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
