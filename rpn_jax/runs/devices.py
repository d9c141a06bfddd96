"""Data parallelism on local devices: the state on every device, a share of the batch on each."""

import collections
import contextlib
import ctypes
import inspect
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def _local_sharding(*axes: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(*axes))


def replicate(tree):
    """Returns the tree with every array on all local devices."""
    return jax.device_put(tree, _local_sharding())


def shard(tree):
    """Returns host arrays `(B, …)` as `(local devices, B / local devices, …)`, one row a device."""
    count = jax.local_device_count()
    split = jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), tree)
    return jax.device_put(split, _local_sharding(AXIS))


def unshard(tree):
    """Returns device arrays `(local devices, b, …)` as host arrays `(B, …)`."""
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), jax.device_get(tree)
    )


def parallel_update(step: Callable, devices: Sequence[jax.Device] | None = None) -> Callable:
    """Returns `step(state, batch, …) -> (state, metrics)` run on all devices, the state donated.

    `step` gets one device's share of the batch and averages over the axis `AXIS` itself. State,
    metrics and the other arguments, such as a key, are replicated, without a device axis. `devices`
    that are not local serve to compile ahead of time.
    """
    others = len(inspect.signature(step).parameters) - 2
    return jax.pmap(
        step,
        AXIS,
        in_axes=(None, 0, *[None] * others),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def parallel_map(function: Callable) -> Callable:
    """Returns `function(variables, batch, …) -> outputs` run on all devices, each with a share.

    The batch and the outputs have a device axis; the other arguments do not.
    """
    others = len(inspect.signature(function).parameters) - 2
    return jax.pmap(function, AXIS, in_axes=(None, 0, *[None] * others))


def prefetch(items: Iterable, put: Callable, ahead: int = 2) -> Iterator:
    """Yields `put(item)`, with the transfers of the next `ahead` items begun."""
    queue = collections.deque()
    for item in items:
        queue.append(put(item))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue


def compiled_first(update: Callable) -> Callable:
    """Returns a `parallel_update` that compiles its program before it allocates memory for a step.

    On a CPU, memory freed by the compiler would stay with the process; it is returned to the system
    before the first step.
    """
    if jax.local_devices()[0].platform != "cpu":
        return update
    compiled = set()

    def compile_and_update(state, batch, *others):
        canvas = batch.images.shape
        if canvas not in compiled:
            compiled.add(canvas)
            update.lower(state, batch, *others).compile()  # the call below reuses it
            with contextlib.suppress(OSError, AttributeError):  # without glibc
                ctypes.CDLL(None).malloc_trim(0)
        return update(state, batch, *others)

    return compile_and_update


def peak_memory_bytes() -> int:
    """Returns the peak memory so far of the first local device; on CPUs, of the process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
