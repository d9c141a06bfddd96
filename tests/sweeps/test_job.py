"""How the end of a run's command is understood."""

import pytest

from rpn_jax.sweeps.job import explain_end

TRACEBACK = "Traceback (most recent call last):\n  File …\nValueError: 3 is odd\n"


@pytest.mark.parametrize(
    ("status", "printed", "end"),
    [
        (1, "training\nerror: the loss of step 3 is nan\n", "the loss of step 3 is nan"),
        (1, "error: first\nerror: second\nmore\n", "second"),
        (1, TRACEBACK, "ValueError: 3 is odd"),
        (3, "", "ended with status 3"),
        (-11, TRACEBACK, "killed by SIGSEGV"),
    ],
)
def test_a_run_fails_for_a_reason(status, printed, end):
    assert explain_end(status, printed, is_stopped=False) == ("failed", end)


def test_a_death_from_outside_says_nothing_against_a_run():
    state, reason = explain_end(-9, "", is_stopped=False)
    assert state == "stopped"
    assert reason == "killed by SIGKILL, as the system does when memory runs out"
    assert explain_end(-15, "", is_stopped=False) == ("stopped", "killed by SIGTERM")
    assert explain_end(-15, "", is_stopped=True) == ("stopped", None)
