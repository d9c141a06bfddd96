"""Several real processes as one run; signals that stop it; the lock of its folder."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from training.test_loop import OPTIONS, ROOT, shapes_config

from rpn_jax import files
from rpn_jax.data.datasets import prepare_dataset
from rpn_jax.errors import StoppedError, UserError
from rpn_jax.runs import processes, workdir
from rpn_jax.runs.metrics import read_metrics
from rpn_jax.trained.load import load_trained
from rpn_jax.training import loop
from rpn_jax.training.checkpoint import saved_steps

STEPS = 500


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    prepare_dataset("shapes", data_dir=folder, **OPTIONS)
    return folder


def start_process(config_file, folder, number, port):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
    }
    command = [
        *(sys.executable, "-m", "rpn_jax", "train"),
        *(f"--config={config_file}", f"--workdir={folder}"),
        *(f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={number}"),
    ]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_two_processes_stop_at_one_signal_having_done_what_one_does(data_dir, tmp_path):
    config_file = tmp_path / "config.py"
    config_file.write_text(
        "from training.test_loop import shapes_config\n"
        "def get_config():\n"
        f"    fields = 'steps={STEPS}', 'evaluation.every={STEPS}'\n"
        f"    return shapes_config({str(data_dir)!r}, *fields)\n"
    )
    folder = tmp_path / "two"
    port = 20_000 + os.getpid() % 20_000
    pair = [start_process(config_file, folder, number, port) for number in range(2)]
    deadline = time.monotonic() + 120
    while not read_metrics(folder / "metrics.jsonl") and time.monotonic() < deadline:
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGTERM)  # one is told, both stop
    errors = [process.communicate(timeout=60)[1] for process in pair]
    assert [process.returncode for process in pair] == [os.EX_TEMPFAIL] * 2, errors
    (start,) = (folder / "runs.jsonl").read_text().splitlines()
    assert json.loads(start)["machine"]["processes"] == 2

    # Their checkpoint, on one process of eight devices.
    _, variables, step = load_trained(shapes_config(data_dir), folder)
    assert 0 < step < STEPS
    assert f"stopped after step {step}" in errors[0]
    rows = [row["step"] for row in read_metrics(folder / "metrics.jsonl")]
    assert rows == list(range(1, step + 1))
    once = loop.train(
        shapes_config(data_dir, f"steps={step}", "evaluation.every=0"), tmp_path / "one"
    )
    jax.tree.map(
        lambda two, one: np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5),
        jax.device_get(variables["params"]),
        jax.device_get(once.params),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_run_save_and_go_on(data_dir, tmp_path, monkeypatch, number):
    config = shapes_config(data_dir, "checkpoint.every=6", "evaluation.every=0")
    handler = signal.getsignal(number)

    def add(self, step, metrics):
        if step == 3:
            signal.raise_signal(number)
        original(self, step, metrics)

    original = loop.Progress.add
    with monkeypatch.context() as patch:
        patch.setattr(loop.Progress, "add", add)
        with pytest.raises(StoppedError, match="after step 3") as stopped:
            loop.train(config, tmp_path)
    assert stopped.value.interrupted == (number == signal.SIGINT)
    assert signal.getsignal(number) == handler
    resumed = loop.train(config, tmp_path)
    assert int(resumed.step) == 6
    starts = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in starts] == [0, 3]


def test_usr1_is_a_request_too():
    with processes.StopRequest() as stop:
        stop.steps_begin()
        assert not stop.reached(1)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.reached(2)


def test_a_signal_after_the_last_step_stops_what_comes_next():
    def last_step():
        with processes.StopRequest() as run:
            run.steps_begin()
            signal.raise_signal(signal.SIGTERM)

    with (
        processes.StopRequest() as outer,
        outer.at_once("between two runs"),
        pytest.raises(StoppedError, match="between two runs"),
    ):
        last_step()


def test_ctrl_c_twice_interrupts_at_once():
    with processes.StopRequest() as stop:
        stop.steps_begin()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_and_in_a_validation_a_run_stops_at_once(number):
    with processes.StopRequest(), pytest.raises(StoppedError, match="before the first step") as e:
        signal.raise_signal(number)
    assert e.value.interrupted == (number == signal.SIGINT)
    with processes.StopRequest() as stop:
        stop.steps_begin()
        with (
            pytest.raises(StoppedError, match="stopped in the validation"),
            stop.at_once("in the validation"),
        ):
            signal.raise_signal(number)


def test_a_signal_is_no_fault_of_the_file_that_is_being_read():
    def read():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:  # as where damaged files may raise anything
            raise UserError(f"is damaged: {error}") from error

    with processes.StopRequest(), pytest.raises(StoppedError, match="before the first step"):
        read()


def test_a_validation_that_is_stopped_saves_and_is_made_up_for(data_dir, tmp_path, monkeypatch):
    config = shapes_config(data_dir, "checkpoint.every=100", "evaluation.every=4")

    def is_told_to_stop(*arguments):
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", is_told_to_stop)
        with pytest.raises(StoppedError, match="^stopped in the validation after step 4$"):
            loop.train(config, tmp_path)
    assert saved_steps(tmp_path) == [4]
    loop.train(config, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation/loss" in row] == [4, 6]


def test_a_validation_that_was_cut_off_is_made_up_for(data_dir, tmp_path, monkeypatch):
    config = shapes_config(data_dir)

    def fails(*arguments):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", fails)
        with pytest.raises(RuntimeError, match="killed"):
            loop.train(config, tmp_path)
    loop.train(config, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation/loss" in row] == [6]


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock(data_dir, tmp_path, monkeypatch):
    config = shapes_config(data_dir)
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import fcntl, sys, time\n"
            f"file = open({str(tmp_path / 'lock')!r}, 'w')\n"
            "fcntl.lockf(file, fcntl.LOCK_EX)\n"
            "print('process 12 on node3', file=file, flush=True)\n"
            "print('locked', flush=True)\n"
            "time.sleep(60)\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "locked\n"
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.3)
    with (
        pytest.raises(UserError, match=r"a run is at work there \(process 12 on node3\)"),
        workdir.claim_workdir(tmp_path, config),
    ):
        pass
    holder.kill()
    holder.communicate()
    with workdir.claim_workdir(tmp_path, config):
        assert f"process {os.getpid()}" in pathlib.Path(tmp_path / "lock").read_text()


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("localhost:1", None, None), "--num_processes, --process_id"),
        ((None, 2, 0), "--coordinator"),
    ],
)
def test_flags_that_do_not_suffice_are_refused(arguments, missing):
    with pytest.raises(UserError, match=f"{missing}: missing"):
        processes.join_processes(*arguments)


def test_a_process_is_alone_unless_it_is_told_of_others(monkeypatch):
    processes.join_processes()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    processes.join_processes(num_processes=1)
    assert not jax.distributed.is_initialized()
    assert processes.gather({"a": [1]}) == [{"a": [1]}]
    assert processes.on_first(lambda: 3) == 3
    with pytest.raises(UserError, match="one line"), processes.together():
        raise UserError("one line")


def test_a_process_whose_others_never_come_ends_with_a_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    code = f"from rpn_jax.runs.processes import join_processes as join; join({place!r}, 2, 0, 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == os.EX_TEMPFAIL
    assert done.stderr.splitlines()[-1].startswith(
        "error: the other processes of this job have not come in 1 s; start them all"
    )
