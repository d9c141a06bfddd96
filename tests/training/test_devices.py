"""A run on a CPU settles: it is compiled before it runs, and its first steps are waited for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpn_jax.training import devices
from rpn_jax.training.network import DeviceBatch
from rpn_jax.typing import GroundTruth


def batch(height):
    count = jax.local_device_count()
    images = np.zeros((count, height, 8, 3), np.uint8)
    boxes, flags = np.zeros((count, 1, 4), np.float32), np.ones((count, 1), bool)
    sizes, index = np.ones((count, 2), np.float32), np.arange(count, dtype=np.int32)
    return devices.shard(DeviceBatch(images, sizes, index, GroundTruth(boxes, flags, ~flags)))


def step(state, batch, key):
    return state + batch.images.shape[1], {"loss": state}


@pytest.fixture
def counted(monkeypatch):
    """What happened: programs compiled, waits, and how often memory was handed back."""
    events = []
    hand_back = devices._hand_back_freed_memory
    wait = jax.block_until_ready
    monkeypatch.setattr(
        devices, "_hand_back_freed_memory", lambda: (events.append("hand back"), hand_back())
    )
    monkeypatch.setattr(jax, "block_until_ready", lambda x: (events.append("wait"), wait(x))[1])
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: (
            event.endswith("/backend_compile_duration") and events.append("compile")
        )
    )
    yield events
    events.clear()


def test_a_program_is_compiled_once_and_its_first_ten_steps_are_waited_for(counted):
    update = devices.settled(devices.parallel_update(step))
    state, key = devices.replicate((jnp.zeros(()), jax.random.key(0)))
    batches = {height: batch(height) for height in (8, 16)}
    counted.clear()
    for height in (8, 16):  # another canvas is another program
        for number in range(1, 13):
            state, metrics = update(state, batches[height], key)
            compiled, waited, handed_back = (
                counted.count(event) for event in ("compile", "wait", "hand back")
            )
            assert compiled == (number == 1)
            assert waited == (number <= 10)
            assert handed_back == (number <= 10) + (number == 1)
            counted.clear()
    assert float(state) == 12 * (8 + 16)


def test_later_each_hundredth_step_hands_back_without_waiting(counted):
    update = devices.settled(devices.parallel_update(step))
    state, key = devices.replicate((jnp.zeros(()), jax.random.key(0)))
    data = batch(8)
    for _ in range(10):
        state, _ = update(state, data, key)
    counted.clear()
    for _ in range(190):
        state, _ = update(state, data, key)
    assert counted == ["hand back"] * 2
