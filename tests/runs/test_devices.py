"""On a CPU a program is compiled, and what that took handed back, before its first step."""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np

from rpn_jax.runs import devices
from rpn_jax.typing import GroundTruth, Images


def batch(height):
    count = jax.local_device_count()
    images = np.zeros((count, height, 8, 3), np.uint8)
    boxes, flags = np.zeros((count, 1, 4), np.float32), np.ones((count, 1), bool)
    sizes, index = np.ones((count, 2), np.float32), np.arange(count, dtype=np.int32)
    return devices.shard(Images(images, sizes, index, GroundTruth(boxes, flags, ~flags)))


def step(state, batch, key):
    return state + batch.images.shape[1], {"loss": state}


def test_memory_is_handed_back_between_compiling_and_the_first_step(monkeypatch):
    update = devices.compiled_first(devices.parallel_update(step))
    state, key = devices.replicate((jnp.zeros(()), jax.random.key(0)))
    batches = {height: batch(height) for height in (8, 16)}
    libc, events = ctypes.CDLL(None), []

    class Libc:
        def malloc_trim(self, pad):
            events.append("hand back")
            return libc.malloc_trim(pad)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Libc())
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: (
            event.endswith("/backend_compile_duration") and events.append("compile")
        )
    )
    for height in (8, 16):  # another canvas is another program
        for number in range(3):
            state, _ = update(state, batches[height], key)
            assert events == ([] if number else ["compile", "hand back"])
            events.clear()
    assert float(state) == 3 * (8 + 16)
