"""The arrays of a checkpoint by name: read back, compared, and looked at."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

ITEM = "default"  # where an ocp.CheckpointManager has its only item
_LARGEST = 1e18  # largest sound parameter; squares of larger ones soon overflow float32


def read_arrays(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every array of a checkpoint's folder by name, without other processes."""
    here = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process_{jax.process_index()}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=here)
    with ocp.Checkpointer(handler, multiprocessing_options=here) as checkpointer:
        folder = checkpoint / ITEM
        metadata = checkpointer.metadata(folder).item_metadata
        if metadata is None:
            raise FileNotFoundError("its metadata is missing")
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
        return by_name(checkpointer.restore(folder, restore_args=as_numpy))


def unsound(leaves: dict[str, Any]) -> str | None:
    """Returns the problem of the first unsound array of a state, None if all are sound.

    An array is unsound if it has a NaN or an infinity, or a parameter so large that the network
    would overflow.
    """
    for name, leaf in leaves.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
            continue
        largest = float(np.abs(np.asarray(leaf)).max())  # NaN if any value is NaN
        if not np.isfinite(largest):
            return f"{name} holds values that are not finite"
        if name.startswith("params.") and largest > _LARGEST:
            return f"{name} holds values as large as {largest:.1g}"
    return None


def by_name(tree, rename: Callable = list) -> dict[str, Any]:
    """Returns a tree's leaves by name; a tuple and its saved dict give the same names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {name_of(path, rename): leaf for path, leaf in leaves}


def name_of(path, rename: Callable = list) -> str:
    """Returns the name of a leaf; `rename` maps an old path, a tuple of strings, to today's."""
    return ".".join(rename([jax.tree_util.keystr((part,), simple=True) for part in path]))


def shapes_of(leaves: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array."""
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}
