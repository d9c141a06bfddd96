"""The arrays of a checkpoint by name: read back, compared, and looked at."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

ITEM = "default"  # where an ocp.CheckpointManager has its only item
_LARGEST = 1e18  # of a parameter; the squares of larger ones are soon beyond float32


def read_arrays(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every array in the folder of a checkpoint, by name, in this process alone."""
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
    """Returns which array of a state a run cannot go on with, None if there is none.

    It is one with a NaN or an infinity, or a parameter so large that a network of it gives them.
    """
    for name, leaf in leaves.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
            continue
        largest = float(np.abs(np.asarray(leaf)).max())  # NaN where one is
        if not np.isfinite(largest):
            return f"{name} holds values that are not finite"
        if name.startswith("params.") and largest > _LARGEST:
            return f"{name} holds values as large as {largest:.1g}"
    return None


def by_name(tree, rename: Callable = list) -> dict[str, Any]:
    """Returns the leaves of a tree, the same whether its nodes are tuples or, as saved, dicts."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {name_of(path, rename): leaf for path, leaf in leaves}


def name_of(path, rename: Callable = list) -> str:
    """Returns the name of a leaf; `rename` maps its path, a tuple of strings, to today's."""
    return ".".join(rename([jax.tree_util.keystr((part,), simple=True) for part in path]))


def shapes_of(leaves: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array."""
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}
