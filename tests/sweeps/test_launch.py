"""Sweeps that are run by submitit, fail in part, and are started again."""

import json
import os
import pathlib
import signal

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from training.small import FIELDS

from rpn_jax.__main__ import main
from rpn_jax.errors import StoppedError
from rpn_jax.sweeps import launch
from rpn_jax.sweeps.definition import load_sweep
from rpn_jax.sweeps.launchers import Launcher, SlurmLauncher, machine_shares
from rpn_jax.sweeps.runs import read_run_state

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "shapes.py"
SWEEP = """
from rpn_jax.sweeps.definition import Sweep, grid, seeds

def get_sweep():
    return Sweep(
        config={config!r},
        fixed={{"steps": 2}},
        axes=[grid({{"model.frozen_stages": (9, 2)}}), seeds((3,))],
    )
"""


@pytest.fixture
def sweep(tmp_path):
    """The flags of a sweep of two tiny runs, the first of which fails, and its folder."""
    file, out = tmp_path / "sweep.py", tmp_path / "out"
    file.write_text(SWEEP.format(config=str(CONFIG)))
    data = {"image_size": 48, "num_train": 2, "num_test": 2}
    flags = [
        f"--sweep={file}",
        f"--out={out}",
        *FIELDS,
        *(f"--config.data.options.{name}={value}" for name, value in data.items()),
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.batch_size=1",
        "--config.evaluation.every=0",
        "--config.evaluation.pictures=0",
        "--config.data.cache_features=true",
    ]
    return flags, out


def read_events(file: pathlib.Path) -> list[Event]:
    """Reads TensorBoard's records: a length and its checksum, the event and its checksum."""
    content, events = file.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return events


def test_a_sweep_is_run_and_only_what_is_missing_is_run_again(sweep, capsys, monkeypatch):
    flags, out = sweep
    one_device = "--xla_force_host_platform_device_count=1"
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} {one_device}")
    failed, done = out / "model.frozen_stages=9,seed=3", out / "model.frozen_stages=2,seed=3"
    assert main(["sweep", *flags]) == 1
    captured = capsys.readouterr()
    reason = "config.model.frozen_stages: is 9, but resnet18 up to c2 has 2 stages; give 0 to 2"
    (line,) = (line for line in captured.err.splitlines() if line.startswith("error: "))
    assert f"1 of 2 runs are not done ({failed.name} failed: {reason})" in line
    assert "--retry" in line
    assert reason in captured.out
    state = read_run_state(failed)
    assert (state.state, state.reason) == ("failed", reason)
    assert read_run_state(done).state == "done"
    # Two images of each split, those of training perhaps mirrored, at first only in prefetching.
    assert len(list((out.parent / "data" / "features").rglob("*.npz"))) in (4, 5, 6)

    before = (done / "runs.jsonl").read_text(), (done / "metrics.jsonl").read_text()
    assert main(["sweep", *flags]) == 1
    log = out / "logs" / f"{failed.name}.log"
    assert log.read_text().count("error: ") == 1
    assert main(["sweep", *flags, "--retry"]) == 1
    assert log.read_text().count("error: ") == 2
    assert ((done / "runs.jsonl").read_text(), (done / "metrics.jsonl").read_text()) == before

    capsys.readouterr()
    assert main(["status", str(out)]) == 0
    assert "1 done, 1 failed" in capsys.readouterr().out
    assert main(["status", str(done)]) == 0
    assert "2/2" in capsys.readouterr().out

    (board,) = (done / "tensorboard").glob("*.hparams")
    values = {v.tag: v for event in read_events(board) for v in event.summary.value}
    content = values["_hparams_/session_start_info"].metadata.plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert shown["model.frozen_stages"].number_value == 2
    assert shown["seed"].number_value == 3
    content = values["_hparams_/experiment"].metadata.plugin_data.content
    metrics = HParamsPluginData.FromString(content).experiment.metric_infos
    assert {metric.name.tag for metric in metrics} == values.keys() - {
        "_hparams_/experiment",
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    figures = read_run_state(done).figures
    assert values["evaluation/AR_50"].simple_value == pytest.approx(figures["AR@50"])

    # The folder of a run is that of its config.
    assert main(["sweep", *flags, "--config.rpn.loss.beta=0.5"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {done}: was begun with another config (rpn.loss.beta: 0.5 here")


def test_an_evaluation_keeps_its_meaning(sweep, capsys):
    flags, out = sweep
    file = pathlib.Path(flags[0].removeprefix("--sweep="))
    ways = 'evaluations=settings({"all": {}, "few": {"rpn.proposals.test.post_nms_top_n": 5}}),'
    file.write_text(file.read_text().replace("grid, seeds", "grid, seeds, settings"))
    file.write_text(file.read_text().replace("axes=", f"{ways} axes="))
    assert main(["sweep", *flags, "--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "each measured in 2 ways: all, few"
    folder = out / "model.frozen_stages=2,seed=3/evaluation/test@few"
    folder.mkdir(parents=True)
    before = {"few": {"rpn.proposals.test.post_nms_top_n": 4}, "all": {}}
    (out / "sweep.json").write_text(json.dumps({"runs": [], "evaluations": before}))
    assert main(["sweep", *flags]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {folder}: was measured with other fields ({{'rpn.pro")
    assert not (out / "logs").exists()


def test_a_dry_run_lists_the_runs_and_writes_nothing(sweep, capsys):
    flags, out = sweep
    assert main(["sweep", *flags, "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "model.frozen_stages=9,seed=3",
        "model.frozen_stages=2,seed=3",
    ]
    assert not out.exists()


class OneStoppedRun(Launcher):
    """Plays a run during which the launcher is told to stop."""

    pause, goes_on = 0.0, False

    def __init__(self):
        self.at_work, self.stopped = [], []

    def room(self, active):
        return 1 - active

    def submit(self, jobs):
        self.at_work = [job.workdir for job in jobs]
        os.kill(os.getpid(), signal.SIGTERM)

    def is_alive(self, workdir):
        return workdir in self.at_work

    def stop(self, workdirs):
        self.stopped, self.at_work = list(workdirs), []


def test_a_signal_stops_the_runs_before_the_launcher_ends(sweep, monkeypatch, capsys):
    (_, *flags), out = sweep
    plan = load_sweep(str(out.parent / "sweep.py"), flags[1:])
    monkeypatch.setattr(launch, "prepare_data", lambda configs: None)
    # A sweep that was here before has a run of another name.
    (out / "old").mkdir(parents=True)
    (out / "old" / "config.json").write_text("{}")
    (out / "sweep.json").write_text('{"runs": [{"folder": "old"}]}')
    launcher = OneStoppedRun()
    with pytest.raises(StoppedError, match="^stopped$"):
        launch.run_sweep(plan, out, launcher)
    assert launcher.stopped == [out / plan.runs[0].folder]
    assert "holds runs of another sweep (old)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--jobs=0", "--jobs=0: give at least 1"),
        ("--config.rpn.loss.balanc=1", "did you mean --config.rpn.loss.balance"),
        ("--config.data.eval_split=nosuch", "there is no split 'nosuch'"),
    ],
)
def test_nothing_is_launched_if_something_is_wrong(flag, says, sweep, capsys):
    flags, out = sweep
    assert main(["sweep", *flags, flag]) == 1
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "logs").exists()


def test_a_folder_that_holds_nothing(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 1
    assert "holds neither a run nor a sweep" in capsys.readouterr().err


def test_slurm_is_asked_for_only_where_it_is(tmp_path, monkeypatch, sweep, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    flags, _ = sweep
    assert main(["sweep", *flags, "--launcher=slurm"]) == 1
    assert "there is no sbatch here" in capsys.readouterr().err
    assert main(["sweep", *flags, "--launcher=slurm", "--slurm_option=account"]) == 1
    assert "write NAME=VALUE" in capsys.readouterr().err


def test_a_job_of_slurm_is_told_early_and_queued_again(tmp_path, monkeypatch):
    for name in ("sbatch", "srun", "squeue"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    launcher = SlurmLauncher(tmp_path, 3, minutes=50, options={"account": "lab", "mem": "8G"})
    script = launcher._executor._make_submission_file_text("COMMAND", "uid")
    lines = script.splitlines()
    for option in ("signal=USR1@120", "requeue", "time=50", "account=lab", "mem=8G"):
        assert f"#SBATCH --{option}" in lines
    assert lines.index("export SUBMITIT_PREEMPT_SIGNAL=USR1") < lines.index(
        next(line for line in lines if line.endswith("COMMAND"))
    )


def test_runs_share_out_the_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")

    assert machine_shares(1) == [(tuple(range(8)), {"CUDA_VISIBLE_DEVICES": "4,5,6"})]
    assert machine_shares(3) == [
        ((0, 1), {"CUDA_VISIBLE_DEVICES": "4"}),
        ((2, 3, 4), {"CUDA_VISIBLE_DEVICES": "5"}),
        ((5, 6, 7), {"CUDA_VISIBLE_DEVICES": "6"}),
    ]
    six = machine_shares(6)
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in six] == list("445566")
    assert {e["XLA_PYTHON_CLIENT_MEM_FRACTION"] for _, e in six} == {"0.38"}
    assert len(machine_shares(9)) == 9
    assert all(len(cores) == 1 for cores, _ in machine_shares(9))

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine_shares(2) == [
        ((0, 1, 2, 3), {"CUDA_VISIBLE_DEVICES": ""}),
        ((4, 5, 6, 7), {"CUDA_VISIBLE_DEVICES": ""}),
    ]
