"""How runs stand, as their folders tell it."""

import json
import os
import subprocess
import sys

import pytest

from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides, to_json
from rpn_jax.sweeps.published import Published
from rpn_jax.sweeps.runs import (
    claim,
    is_claimed,
    read_run_state,
    read_sweep_states,
    slurm_queue,
    state_folder,
    write_state,
)
from rpn_jax.sweeps.tables import count_states, run_table, sweep_table

HOLD = (
    "import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX);"
    "print('held', flush=True); sys.stdin.read()"
)
ROWS = (
    {"step": 20, "train/loss": 2.0},
    {"step": 40, "train/loss": 1.0, "train/images_per_second": 8.0},
    {"step": 40, "validation/loss": 1.5, "validation/AR@10": 0.25},
)


@pytest.fixture
def workdir(tmp_path):
    """A run of 100 steps of 4 images in a sweep, that was begun and left at step 40."""
    (tmp_path / "sweep.json").write_text(
        json.dumps({"runs": [{"folder": "seed=0"}, {"folder": "seed=1"}]})
    )
    workdir = tmp_path / "seed=0"
    (workdir / "checkpoints" / "40").mkdir(parents=True)
    config = apply_overrides(default_config(), ["--config.steps=100", "--config.batch_size=4"])
    (workdir / "config.json").write_text(to_json(config))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return workdir


@pytest.fixture
def held():
    """A function that has another process hold the lock of a folder, until the test's end."""
    processes = []

    def hold(folder):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-S", "-c", HOLD, str(folder / "lock")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes.append(subprocess.Popen(command, **pipes))
        assert processes[-1].stdout.readline() == b"held\n"

    yield hold
    for process in processes:
        process.communicate()


def evaluated(workdir, step):
    folder = workdir / "evaluation" / "test"
    folder.mkdir(parents=True)
    figures = {"AR@10": 0.5, "AR_small@10": 0.25}
    (folder / "figures.json").write_text(json.dumps({"step": step, "scalars": figures}))


def test_a_run_that_was_not_begun_and_one_that_was_left(workdir):
    assert read_run_state(workdir.parent / "seed=1").state == "missing"
    state = read_run_state(workdir)
    assert state.state == "stopped"
    assert (state.step, state.steps, state.loss, state.rate) == (40, 100, 1.0, 8.0)
    assert (state.validated, state.validation) == (40, {"loss": 1.5, "AR@10": 0.25})
    assert state.eta_s is None
    assert state.logged_s >= 0


def test_a_run_without_its_config_or_its_checkpoints_says_so(workdir, held):
    assert read_run_state(workdir).reason is None
    (workdir / "checkpoints" / "40").rename(workdir / "checkpoints" / "40.unsealed")
    assert read_run_state(workdir).reason == "has no checkpoint, and would begin anew"
    (workdir / "checkpoints" / "40.unsealed").rmdir()
    (workdir / "checkpoints").rmdir()
    assert read_run_state(workdir).reason == "has no checkpoint, and would begin anew"
    file = workdir / "config.json"
    for content in (file.read_text()[:99], "", "{}", "[]"):
        file.write_text(content)
        state = read_run_state(workdir)
        assert (state.state, state.step) == ("failed", 40)
        assert state.reason == "config.json cannot be read; put it back"
    held(workdir)
    file.write_text('{"steps": "x", "data": 3}')
    assert read_run_state(workdir).state == "running"


@pytest.mark.parametrize("of", [lambda workdir: workdir, state_folder], ids=["train", "sweep"])
def test_a_run_is_at_work_while_a_process_holds_its_lock(of, workdir, held):
    held(of(workdir))
    state = read_run_state(workdir)
    assert state.state == "running"
    assert state.eta_s == (100 - 40) * 4 / 8.0


def test_a_run_of_a_sweep_is_done_when_it_is_evaluated_after_its_last_step(workdir):
    evaluated(workdir, 40)
    (workdir / "checkpoints" / "100").mkdir(parents=True)
    assert read_run_state(workdir).state == "stopped"
    evaluation = workdir / "evaluation" / "test" / "figures.json"
    evaluation.write_text(evaluation.read_text().replace("40", "100"))
    state = read_run_state(workdir)
    assert state.state == "done"
    assert state.figures == {"AR@10": 0.5, "AR_small@10": 0.25}


def test_another_run_is_done_when_its_last_step_is_saved(workdir):
    (workdir.parent / "sweep.json").unlink()
    assert read_run_state(workdir).state == "stopped"
    (workdir / "checkpoints" / "100").mkdir(parents=True)
    assert read_run_state(workdir).state == "done"


def test_how_a_run_ended_is_told(workdir):
    write_state(workdir, "job", {"launcher": "local", "id": "1"})
    state = read_run_state(workdir)
    assert (state.state, state.reason) == ("stopped", "killed with what had started it")
    write_state(workdir, "end", {"state": "failed", "reason": "out of luck"})
    state = read_run_state(workdir)
    assert (state.state, state.reason) == ("failed", "out of luck")
    evaluated(workdir, 100)
    assert read_run_state(workdir).state == "done"


def test_a_job_of_slurm_stands_as_its_queue_says(workdir):
    write_state(workdir, "job", {"launcher": "slurm", "id": "7_1"})
    assert read_run_state(workdir, {"7_1": "PENDING"}).state == "queued"
    assert read_run_state(workdir, {"7_1": "RUNNING"}).state == "running"
    assert read_run_state(workdir, {"7_2": "RUNNING"}).state == "stopped"
    # What an earlier start of a job that was queued again has left does not count.
    write_state(workdir, "end", {"state": "stopped", "reason": None})
    assert read_run_state(workdir, {"7_1": "PENDING"}).state == "queued"


def test_the_queue_is_asked_of_squeue(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\nprintf "12_3 RUNNING\\n13 PENDING\\n"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert slurm_queue() == {"12_3": "RUNNING", "13": "PENDING"}
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert slurm_queue() is None
    monkeypatch.setenv("PATH", "")
    assert slurm_queue() is None


def test_a_claim_is_refused_while_another_process_has_it(tmp_path, held):
    with claim(tmp_path / "ours") as is_ours:
        assert is_ours
    assert not is_claimed(tmp_path / "ours")
    assert not is_claimed(tmp_path / "nobody's")
    held(tmp_path / "theirs")
    with claim(tmp_path / "theirs") as is_ours:
        assert not is_ours
    assert is_claimed(tmp_path / "theirs")


def shown(table) -> str:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_sweep_is_shown_as_a_table(workdir):
    write_state(workdir, "end", {"state": "failed", "reason": "out of [luck]"})
    states = read_sweep_states(workdir.parent)
    assert list(states) == ["seed=0", "seed=1"]
    assert count_states(list(states.values())) == "1 failed, 1 waiting"
    text = shown(sweep_table(states))
    assert "seed=0  failed   40/100  1.000" in text
    assert "out of [luck]" in text
    evaluated(workdir, 100)
    text = shown(sweep_table(read_sweep_states(workdir.parent)))
    assert "AR@10" in text
    assert "0.500" in text
    assert "small" not in text
    text = shown(run_table("seed=0", read_run_state(workdir)))
    assert "validation, step 40" in text
    assert "AR@10 0.500" in text


def test_the_headline_has_a_column(workdir):
    figures = {"AP": 0.25, "AP50": 0.5, "AP_small": 0.1, "AR@1": 0.3, "VOC07": 0.4, "VOC12": 0.4}
    file = workdir / "evaluation/test/figures.json"
    evaluated(workdir, 100)
    file.write_text(json.dumps({"step": 100, "headline": "AP", "scalars": figures}))
    header, *_ = shown(sweep_table(read_sweep_states(workdir.parent))).splitlines()
    assert header.split()[-4:] == ["AP", "AP50", "AR@1", "why"]


def test_published_figures_have_a_column(workdir, capsys):
    record = json.loads((workdir.parent / "sweep.json").read_text())
    record["runs"][0]["setting"] = "3x3"
    record["published"] = Published("table 8", "mAP", {"3x3": 69.9}).to_json()
    (workdir.parent / "sweep.json").write_text(json.dumps(record))
    assert main(["status", str(workdir.parent)]) == 0
    header, one, two, _ = capsys.readouterr().out.splitlines()
    assert header.split()[-3:] == ["published", "mAP", "why"]
    assert one.split()[-2:] == ["69.9", "%"]
    assert two.split() == ["seed=1", "waiting"]
    # Of several evaluations, that of the run's own.
    record["published"]["values"] = {"3x3,100": 55.1, "3x3,300": 56.8}
    record["evaluations"] = {"100": {"without": ["nms"]}, "300": {}}
    (workdir.parent / "sweep.json").write_text(json.dumps(record))
    assert main(["status", str(workdir.parent)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["56.8", "%"]


def test_masks_stand_beside_boxes(workdir):
    boxes = {"AP": 0.25, "AP50": 0.5, "AP75": 0.125, "AP_small": 0.1, "AR@1": 0.3}
    masks = {f"masks_{name}": value + 0.01 for name, value in boxes.items()}
    figures = {**boxes, "proposals_AR@1": 0.7, **masks}
    evaluated(workdir, 100)
    file = workdir / "evaluation/test/figures.json"
    file.write_text(json.dumps({"step": 100, "headline": "AP", "scalars": figures}))
    header, row, *_ = shown(sweep_table(read_sweep_states(workdir.parent))).splitlines()
    assert header.split()[-5:] == ["AP", "AP50", "AP75", "masks_AP", "why"]
    assert "0.260" in row
    text = shown(run_table("seed=0", read_run_state(workdir)))
    assert "masks_AP 0.260 masks_AP50 0.510 masks_AP75 0.135" in " ".join(text.split())
    assert "proposals" not in text


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(UserError, match="holds no sweep"):
        read_sweep_states(tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        read_sweep_states(tmp_path)
