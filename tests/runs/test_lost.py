"""Real processes of a job, of which one is killed or stopped."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from rpn_jax.runs.lost import what_is_said

CODE = """
import sys, time
from rpn_jax.runs.processes import gather, join_processes

join_processes(sys.argv[1], 2, int(sys.argv[2]), heartbeat_seconds=2)
gather(None)
print("joined", flush=True)
while True:
    {work}
"""


@pytest.fixture
def job():
    """A function that starts two processes, which then repeat `work`."""
    started = []

    def start(work):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        for number in "01":
            command = [sys.executable, "-c", CODE.format(work=work), place, number]
            started.append(subprocess.Popen(command, **pipes))
        for process in started:
            while (line := process.stdout.readline()) != "joined\n":
                assert line, process.stderr.read()
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("work", "victim", "number"),
    [("time.sleep(60)", 0, signal.SIGKILL), ("gather(None)", 1, signal.SIGSTOP)],
    ids=["the first is killed", "another stands still"],
)
def test_a_process_whose_job_has_lost_another_ends_with_a_line(job, work, victim, number):
    pair = job(work)
    pair[victim].send_signal(number)
    _, errors = pair[1 - victim].communicate(timeout=60)
    assert pair[1 - victim].returncode == os.EX_TEMPFAIL, errors
    (line,) = errors.splitlines()
    assert line == what_is_said()


def test_the_line_about_a_loss_has_no_message_of_the_network():
    said = (
        "answer; its own output says why; the same command goes on from the newest checkpoint, and"
    )
    assert said in what_is_said()
    assert said in what_is_said(
        "UNAVAILABLE: Gloo AllReduce failed: [pair.cc:598] Connection closed"
    )
    assert "does not answer: INTERNAL: x; its own" in what_is_said("INTERNAL: x")
