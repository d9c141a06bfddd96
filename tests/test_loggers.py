"""Loggers beside TensorBoard: their own thread, what their failures do, and where they go on."""

import json
import sys
import threading
import time

import pytest
from training.small import small_config

from rpn_jax import loggers
from rpn_jax.errors import UserError
from rpn_jax.loggers import Loggers, find_logger

OWN = """
import json

class Lines:
    def __init__(self, workdir, config):
        self.file = (workdir / "lines").open("a")
        self.file.write(json.dumps(config["optimizer.learning_rate"]) + "\\n")

    def log(self, step, values):
        self.file.write(json.dumps([step, values]) + "\\n")

    def close(self):
        self.file.close()

class Broken(Lines):
    def log(self, step, values):
        if step == 2:
            raise ConnectionError("no route\\nto the host")
        super().log(step, values)

class Hanging(Lines):
    def close(self):
        import threading
        threading.Event().wait()

class Open:
    def __init__(self, workdir, config): pass
    def log(self, step, values): pass

class Exits(Open):
    def log(self, step, values): raise SystemExit

NUMBER = 3
def short(workdir): return None
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "ownlog.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ownlog", raising=False)


def run(workdir, *names, steps=(1, 2, 3)):
    logged = Loggers(small_config(f"--config.loggers={names}"), workdir)
    for step in steps:
        logged.log(step, {"train/loss": 1 / step})
    logged.close()


def test_a_logger_of_ones_own_has_the_config_and_all_rows(tmp_path, capsys):
    run(tmp_path, "ownlog:Lines")
    rate, *rows = map(json.loads, (tmp_path / "lines").read_text().splitlines())
    assert rate == 0.02
    assert rows == [[step, {"train/loss": 1 / step}] for step in (1, 2, 3)]
    assert capsys.readouterr().err == ""


def test_a_failure_is_one_line_and_the_others_go_on(tmp_path, capsys):
    run(tmp_path, "ownlog:Broken", "ownlog:Lines")
    lines = (tmp_path / "lines").read_text().splitlines()
    assert sorted(lines[2:]).count(json.dumps([3, {"train/loss": 1 / 3}])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: config.loggers=ownlog:Broken: ConnectionError: no route; the training goes on "
        "without it; metrics.jsonl has all metrics"
    )


@pytest.mark.parametrize(("name", "problem"), [("Open", "AttributeError"), ("Exits", "SystemExit")])
def test_a_failure_at_the_end_or_an_exit_is_one_line_at_once(tmp_path, capsys, name, problem):
    begun = time.monotonic()
    run(tmp_path, f"ownlog:{name}")
    assert time.monotonic() - begun < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: config.loggers=ownlog:{name}: {problem}")


def test_the_end_does_not_wait_for_ever(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loggers, "_CLOSING_SECONDS", 0.2)
    run(tmp_path, "ownlog:Hanging")
    (line,) = capsys.readouterr().err.splitlines()
    assert "has not sent everything within 0 s of the end" in line
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "ownlog:Hanging"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nosuch.module:Lines", "there is no module nosuch; install its package"),
        ("ownlog:Nothing", "ownlog has no Nothing"),
        ("ownlog:short", r"cannot be called with \(workdir, config\)"),
        ("ownlog:NUMBER", r"cannot be called with \(workdir, config\)"),
    ],
)
def test_what_is_no_logger_is_one_line(name, problem):
    with pytest.raises(UserError, match=rf"config.loggers={name}: .*{problem}"):
        find_logger(name)


def test_a_missing_extra_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"config.loggers: wandb .*pip install 'rpn-jax\[wandb\]'"):
        find_logger("wandb")


def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(tmp_path, capsys, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    run(tmp_path, "mlflow", steps=(1, 2, 3))
    run(tmp_path, "mlflow", steps=(3, 4))
    assert capsys.readouterr().err == ""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("rpn-jax")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == (tmp_path / "loggers/mlflow.id").read_text()
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer.learning_rate"] == "0.02"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3, 3, 4]


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(tmp_path, capsys, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path, "wandb", steps=(1, 2, 3))
    run(tmp_path, "wandb", steps=(3, 4))
    assert "warning" not in capsys.readouterr().err
    name = (tmp_path / "loggers/wandb.id").read_text()
    starts = list((tmp_path / "loggers/wandb").glob("offline-run-*"))
    assert len({start.name for start in starts}) == len(starts)
    assert starts
    assert all(start.name.endswith(name) for start in starts)
    assert all(list(start.glob("*.wandb")) for start in starts)
