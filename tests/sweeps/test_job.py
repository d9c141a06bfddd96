"""The commands of a run of a sweep, and how their end is understood."""

import json
import signal
import sys

import pytest

from rpn_jax.files import write_text
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides, to_json
from rpn_jax.sweeps.job import RunJob, explain_end
from rpn_jax.sweeps.runs import read_run_state

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


FIGURES = '{"step": 9, "headline": "AR@10", "scalars": {"AR@10": 0.5}}'
# In place of the program: notes its flags, and leaves what `evaluate` would; one of them fails.
PROGRAM = f"""#!/bin/sh
shift 2
echo "$@" >> commands
[ "$1" = train ] && exit 0
for flag in "$@"; do case $flag in
  --without=ranking) echo "error: out of memory"; exit 1;;
  --workdir=*) out=${{flag#--workdir=}}/evaluation/test;;
esac; done
for flag in "$@"; do case $flag in --out=*) out=${{flag#--out=}};; esac; done
mkdir -p "$out"
echo '{FIGURES}' > "$out/figures.json"
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A run of a sweep that is measured in three ways, of which the last fails."""
    program, workdir = tmp_path / "program", tmp_path / "seed=0"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)
    evaluations = {"all": {}, "no-NMS": {"without": ["nms"]}, "drawn": {"without": ["ranking"]}}
    record = {"runs": [{"folder": "seed=0"}], "evaluations": evaluations}
    write_text(tmp_path / "sweep.json", json.dumps(record))
    config = apply_overrides(default_config(), ["--config.steps=9"])
    write_text(workdir / "config.json", to_json(config))
    before = signal.getsignal(signal.SIGTERM)
    flags = {"no-NMS": ["--without=nms"], "drawn": ["--without=ranking"]}
    yield RunJob(workdir, ["--config=shapes"], [], evaluations=flags)
    signal.signal(signal.SIGTERM, before)


def test_a_run_is_done_when_it_is_measured_in_all_ways(job, tmp_path):
    job()
    workdir = f"--workdir={job.workdir}"
    out = job.workdir / "evaluation"
    assert (tmp_path / "commands").read_text().splitlines() == [
        f"train --config=shapes {workdir}",
        f"evaluate {workdir}",
        f"evaluate --out={out / 'test@no-NMS'} --without=nms {workdir}",
        f"evaluate --out={out / 'test@drawn'} --without=ranking {workdir}",
    ]
    state = read_run_state(job.workdir)
    assert (state.state, state.reason) == ("failed", "out of memory")
    # Again: what was measured stays as it is.
    (tmp_path / "commands").unlink()
    job()
    assert (tmp_path / "commands").read_text().splitlines() == [
        f"evaluate --out={out / 'test@drawn'} --without=ranking {workdir}",
    ]
    write_text(out / "test@drawn/figures.json", FIGURES)
    assert read_run_state(job.workdir).state == "done"
    (tmp_path / "commands").unlink()
    job()
    assert not (tmp_path / "commands").exists()
