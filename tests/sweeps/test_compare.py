"""Two runs written by hand, held against each other by `rpn-jax compare`."""

import copy
import json

import numpy as np
import pytest
from training.small import small_config

from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import trainable_mask
from rpn_jax.runs import devices
from rpn_jax.runs.config_files import to_json
from rpn_jax.sweeps import compare
from rpn_jax.sweeps.compare import compare_runs
from rpn_jax.sweeps.compare_tables import format_comparison
from rpn_jax.training.build import build_network
from rpn_jax.training.checkpoint import Checkpoints
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.state import initial_state

START = {
    "step": 0,
    "code": {"commit": "5" * 40, "local_changes": None, "source": "6" * 64},
    "packages": {"jax": "0.10.2", "numpy": "2.4.6"},
    "data": {"train": {"dataset": "shapes", "images": 24, "annotations": "7" * 64}},
    "weights": {"file": "vgg16.npz", "sha256": "8" * 64},
    "machine": {"devices": {"cpu": 8}, "processes": 1},
    "environment": {},
}
LOSSES = {20: 3.0, 40: 2.0, 60: 1.0}
FIGURES = {"loss": 0.5, "AR@10": 0.25, "AR_small@10": float("nan")}


def start(step, **facts):
    """A row of runs.jsonl; only the first start tells the weights."""
    row = copy.deepcopy(START) | {"step": step, "weights": START["weights"] if step == 0 else None}
    for name, values in facts.items():
        row[name] |= values
    return row


@pytest.fixture
def run(tmp_path):
    """A function that writes the folder of a run and returns it."""

    def write(name, config=None, starts=(START,), losses=LOSSES, validations=None):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(to_json(config or small_config()))
        validations = {60: FIGURES} if validations is None else validations
        metrics = [{"step": step, "train/loss": loss} for step, loss in losses.items()] + [
            {"step": step} | {f"validation/{name}": value for name, value in figures.items()}
            for step, figures in validations.items()
        ]
        for file, rows in (("runs.jsonl", starts), ("metrics.jsonl", metrics)):
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


@pytest.fixture
def keep(monkeypatch):
    """A function that gives a run's folder a checkpoint of that step, which holds `variables`."""
    kept = {}
    monkeypatch.setattr(
        compare, "load_trained", lambda config, folder, step: (None, kept[folder, step], step)
    )

    def write(folder, step, variables):
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        kept[folder, step] = variables

    return write


@pytest.fixture
def state(random_variables):
    config = small_config()
    network = build_network(config)
    variables = random_variables(network, np.zeros((1, 64, 64, 3), np.float32))
    _, optimizer = build_optimizer(config)
    return initial_state(variables, trainable_mask(variables["params"], ()), optimizer)


def save(folder, state, step):
    checkpoints = Checkpoints(folder)
    checkpoints.save(devices.replicate(state._replace(step=np.int32(step))))
    checkpoints.close()


def variables_of(**parts):
    trees = {part: {"kernel": np.float32(values)} for part, values in parts.items()}
    return {"params": trees, "batch_stats": {"backbone": {"mean": np.float32([0, 2])}}}


def test_equal_runs_are_said_to_be_in_a_line_each(run, keep):
    a, b = run("a"), run("b")
    for folder in (a, b):
        keep(folder, 60, variables_of(rpn=[0.0, 1.0]))
    comparison = compare_runs(a, b)
    assert comparison["differs"] == []
    lines = [line for line in format_comparison(comparison).splitlines() if line]
    assert lines == [
        f"A  {a}  step 60 of 80000  1 start",
        f"B  {b}  step 60 of 80000  1 start",
        "same: config, code, packages, data, weights, machine, environment",
        "training loss: the same in 3 rows of both, to step 60",
        "validation at step 60: the same",
        "parameters at step 60: bit for bit equal (2 arrays)",
    ]


def test_what_runs_are_made_of(run):
    theirs = start(
        0, packages={"jax": "0.10.1"}, machine={"devices": {"cpu": 4, "TPU v5e": 4}},
        environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    )  # fmt: skip
    a = run("a")
    b = run("b", small_config("--config.seed=3"), [theirs], validations={})
    comparison = compare_runs(a, b)
    assert comparison["config"] == {"seed": (0, 3)}
    assert comparison["packages"] == {"jax": ("0.10.2", "0.10.1")}
    assert comparison["machine"] == {"devices.cpu": (8, 4), "devices.TPU v5e": (None, 4)}
    assert comparison["code"] == comparison["data"] == comparison["weights"] == {}
    assert comparison["differs"] == ["config", "packages", "machine", "environment"]
    text = format_comparison(comparison)
    rows = [line.split() for line in text.splitlines()]
    assert ["seed", "0", "3"] in rows
    assert ["jax", "0.10.2", "0.10.1"] in rows
    assert ["devices.TPU", "v5e", "-", "4"] in rows
    assert ["B:", "--xla_force_host_platform_device_count=8"] in rows
    assert "validation: there is none at the same step" in text
    assert "parameters: not compared: there is no checkpoint of the same step" in text


def test_a_run_that_was_moved_on_the_way(run):
    few = {"devices": {"cpu": 4}}
    a = run(
        "a",
        starts=[
            start(0, packages={"jax": "0.9.9"}),  # killed before there was a checkpoint
            start(0),
            start(40, machine={"devices": {"cpu": 2}}),  # whose checkpoint was damaged later
            start(20, machine=few),
            start(60, packages={"jax": "0.11.0"}),  # had nothing left to do
        ],
    )
    b = run("b", starts=[start(0, machine=few)])
    comparison = compare_runs(a, b)
    assert comparison["runs"][0]["starts"] == 2
    assert comparison["machine"] == {}
    assert comparison["packages"] == {}
    assert comparison["weights"] == {}
    assert comparison["changes"] == [[{"step": 20, "fields": {"machine.devices.cpu": (8, 4)}}], []]
    assert "  A from step 20: machine.devices.cpu 8 -> 4" in format_comparison(comparison)


def test_where_losses_part(run):
    a = run("a", losses={10: 4.0, 20: 2.0, 30: 1.0, 40: 1.0, 50: 1.0}, validations={})
    b = run("b", losses={10: 4.0, 20: 2.00001, 30: 1.0, 35: 7.0, 40: 8.0, 50: 1.001})
    losses = compare_runs(a, b)["losses"]
    # Of B, the rows of 35 and 40 have the mean 7.5 over the steps of A's row of 40.
    assert (losses["rows"], losses["merged"]) == (5, 1)
    assert [(row["beyond"], row["step"]) for row in losses["first"]] == [
        (0, 20), (1e-6, 20), (1e-4, 40), (1e-2, 40),
    ]  # fmt: skip
    assert losses["most"]["step"] == 40
    assert losses["most"]["values"] == (1.0, 7.5)
    assert losses["most"]["relative"] == pytest.approx(6.5 / 7.5)
    lines = format_comparison(compare_runs(a, b)).splitlines()
    table = [line.split() for line in lines[lines.index("") :] if line.startswith("  ")]
    assert table[:-1] == [
        ["first", "different", "20", "2", "2.00001", "5.0e-06"],
        ["first", "beyond", "1e-4", "40", "1", "7.5", "8.7e-01"],
        ["most", "different", "40", "1", "7.5", "8.7e-01"],
    ]
    assert " ".join(table[-1]) == (
        "5 rows of both, to step 50; in 1 the means of those that one logged more often"
    )


def test_runs_that_were_logged_every_step_and_every_fifth(run):
    each = {step: 0.1 + 1 / step for step in range(1, 23)}
    fifth = {
        step: float(np.mean([each[s] for s in range(step - 4, step + 1)]))
        for step in (5, 10, 15, 20)
    }
    a, b = run("a", losses=each), run("b", losses=fifth)
    losses = compare_runs(a, b)["losses"]
    assert (losses["rows"], losses["last_step"], losses["merged"]) == (4, 20, 4)
    assert losses["first"][0]["step"] is None  # but for the rounding of the means
    assert "training loss: the same in 4 rows of both, to step 20" in format_comparison(
        compare_runs(a, b)
    )
    c = run("c", losses={**fifth, 15: 2 * fifth[15]})
    assert compare_runs(a, c)["losses"]["first"][0]["step"] == 15


def test_a_fork_is_compared_from_where_it_began(run):
    a = run("a", losses={10: 9.0, 20: 2.0, 30: 1.0})
    fork = small_config()
    fork.fork.run, fork.fork.step = "a", 10
    losses = compare_runs(a, run("b", fork, losses={20: 2.0, 30: 1.0}))["losses"]
    assert (losses["rows"], losses["last_step"], losses["first"][0]["step"]) == (2, 30, None)
    fork.fork.step = 15  # within a row of A
    losses = compare_runs(a, run("c", fork, losses={20: 5.0, 30: 1.0}))["losses"]
    assert (losses["rows"], losses["last_step"], losses["first"][0]["step"]) == (1, 30, None)


def test_the_last_validation_of_both(run):
    a = run("a", validations={20: FIGURES, 40: FIGURES, 60: FIGURES})
    b = run("b", validations={20: FIGURES, 40: FIGURES | {"AR@10": 0.375}})
    comparison = compare_runs(a, b)
    assert comparison["differs"] == ["validation"]
    lines = format_comparison(comparison).splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("validation at step 40"))
    assert lines[at + 1].split() == ["AR@10", "0.25", "0.375", "+0.12"]
    assert lines[at + 2] == "  2 others are the same"


def test_parameters_of_the_newest_common_step(run, keep):
    a, b = run("a"), run("b")
    keep(a, 20, variables_of(backbone=[1.0], rpn=[3.0, 4.0]))
    keep(a, 60, {})
    keep(b, 20, variables_of(backbone=[1.0], rpn=[3.0, 5.0]))
    (b / "checkpoints" / "60.unsealed").mkdir()
    comparison = compare_runs(a, b)
    assert comparison["differs"] == ["parameters"]
    parameters = comparison["parameters"]
    assert parameters["step"] == 20
    assert parameters["parts"]["backbone"]["equal"]
    head = parameters["parts"]["rpn"]
    assert head["relative_norm"] == pytest.approx(1 / np.hypot(3, 5))
    assert head["most"] == {"array": "params/rpn/kernel", "relative": pytest.approx(1 / 5)}
    rows = [line.split() for line in format_comparison(comparison).splitlines()]
    assert ["backbone", "bit", "for", "bit", "equal"] in rows
    assert ["rpn", "1.7e-01", "2.0e-01", "params/rpn/kernel"] in rows


def test_bits_and_not_values_are_held_against_each_other(run, keep):
    a, b = run("a"), run("b")
    keep(a, 20, variables_of(rpn=[0.0]))
    keep(b, 20, variables_of(rpn=[-0.0]))
    head = compare_runs(a, b)["parameters"]["parts"]["rpn"]
    assert not head["equal"]
    assert head["most"]["relative"] == 0


def test_real_checkpoints(run, state):
    a, b = run("a"), run("b")
    save(a, state, 20)
    bias = state.params["rpn"]["conv"]["bias"] + 1
    conv = {**state.params["rpn"]["conv"], "bias": bias}
    params = {**state.params, "rpn": {**state.params["rpn"], "conv": conv}}
    save(b, state._replace(params=params), 20)
    parts = compare_runs(a, b)["parameters"]["parts"]
    assert {name: part["equal"] for name, part in parts.items()} == {
        "backbone": True, "rpn": False,
    }  # fmt: skip
    assert parts["rpn"]["most"] == {"array": "params/rpn/conv/bias", "relative": 1.0}


def test_parameters_that_cannot_be_compared(run, keep, monkeypatch):
    a, b = run("a"), run("b")
    keep(a, 20, variables_of(rpn=[1.0]))
    keep(b, 20, variables_of(rpn=[1.0, 2.0]))
    text = format_comparison(compare_runs(a, b))
    assert "parameters: not compared: the networks have not the same arrays" in text

    def damaged(*args):
        raise UserError("checkpoints/20: damaged")

    monkeypatch.setattr(compare, "load_trained", damaged)
    text = format_comparison(compare_runs(a, b))
    assert "parameters: not compared: checkpoints/20: damaged" in text


def test_runs_that_have_only_begun(run):
    a, b = (run(name, starts=[], losses={}, validations={}) for name in "ab")
    (b / "runs.jsonl").unlink()
    (b / "metrics.jsonl").unlink()
    text = format_comparison(compare_runs(a, b))
    assert "same: config\n" in text
    assert "not recorded by both: code, packages, data, weights, machine, environment" in text
    assert "training loss: no step was logged by both" in text


def test_the_command(run, capsys):
    a, b = run("a"), run("b", small_config("--config.seed=1"))
    assert main(["compare", str(a), str(b)]) == 0
    assert "same: code, packages" in capsys.readouterr().out
    assert main(["compare", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differs"] == ["config"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("a", "nowhere"), "nowhere: is no run's"),
        (("a", "."), "has no config.json"),
        (("a", "a/a/.."), "is the same folder"),
        (("a", "b", "--config.seed=1"), "--config.seed=1: there is no such flag"),
        (("a", "damaged"), "damaged/config.json: cannot be read"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, capsys, arguments, expected):
    for name in ("a", "b", "damaged"):
        run(name)
    (tmp_path / "a" / "a").mkdir()
    (tmp_path / "damaged" / "config.json").write_text('{"seed": ')
    paths = [
        argument if argument.startswith("--") else str(tmp_path / argument)
        for argument in arguments
    ]
    assert main(["compare", *paths]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert expected in error
