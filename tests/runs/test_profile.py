import jax
import jax.numpy as jnp
import pytest
from compilers import FUSED

from rpn_jax.errors import UserError
from rpn_jax.runs.profile import StepProfiler, profile_steps


def test_steps_are_a_range_with_its_last():
    assert profile_steps(None) == range(0)
    assert profile_steps("20:25") == range(20, 26)
    assert profile_steps("7:7") == range(7, 8)


@pytest.mark.parametrize("text", ["", "20", "25:20", "0:5", "-1:5", "2:x", "1:2:3", "1.0:2"])
def test_nonsense_is_refused(text):
    with pytest.raises(UserError, match=r"^--profile_steps=.*such as 20:25$"):
        profile_steps(text)


@pytest.fixture(scope="module")
def train_step():
    return jax.jit(
        lambda state, batch: (state + batch, {"loss": jnp.sin(state)}), compiler_options=FUSED
    )


def run(profiler, train_step, steps):
    state = batch = jnp.ones((8, 8))
    for step in steps:
        state, _ = profiler.run(step, train_step, state, batch)
    return state


def traced(folder):
    """Returns the steps of the trace, and how often the device computed a sine."""
    (file,) = (folder / "profile").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
    return steps, sum("sine" in event.name and "end" not in event.name for event in events)


def test_the_trace_has_the_steps_asked_for_and_all_that_the_device_did_for_them(
    train_step, tmp_path
):
    state = run(StepProfiler(tmp_path, range(3, 5)), train_step, range(1, 7))
    assert traced(tmp_path) == ([3, 4], 2)
    assert (state == 7).all()


def test_a_run_that_ends_in_the_middle_leaves_its_trace(train_step, tmp_path):
    profiler = StepProfiler(tmp_path, range(2, 9))
    run(profiler, train_step, range(1, 4))
    profiler.close()
    assert traced(tmp_path)[0] == [2, 3]
    profiler.close()


def test_a_run_beyond_the_steps_records_nothing(train_step, tmp_path):
    run(StepProfiler(tmp_path, range(2, 4)), train_step, range(4, 6))
    run(StepProfiler(tmp_path, range(0)), train_step, range(1, 3))
    assert not any(tmp_path.iterdir())
