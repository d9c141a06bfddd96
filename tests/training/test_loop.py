"""The whole of `train`: resumed after a kill, refused, stopped by a NaN, compiled only once."""

import copy
import functools
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilers import fused_pmap
from damage import flip_a_byte
from training.small import small_config

from rpn_jax.data.datasets import prepare_dataset
from rpn_jax.data.plan import BatchPlan
from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import Figures
from rpn_jax.evaluation.objects import read_objects
from rpn_jax.runs import fingerprint
from rpn_jax.runs.history import read_run
from rpn_jax.runs.metrics import read_metrics
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.sweeps.runs import read_run_state
from rpn_jax.trained.load import load_trained
from rpn_jax.trained.measure import evaluate_trained
from rpn_jax.trained.model import load
from rpn_jax.training import loop
from rpn_jax.training.build import build_network
from rpn_jax.training.checkpoint import Checkpoints, saved_steps
from rpn_jax.training.features import FeatureCache
from rpn_jax.training.fork import forked_config
from rpn_jax.training.splits import open_split

OPTIONS = {"seed": 0, "image_size": 48, "num_train": 24, "num_test": 11}
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    prepare_dataset("shapes", data_dir=folder, **OPTIONS)
    return folder


def shapes_config(data_dir, *overrides):
    config = small_config(
        "--config.data.dataset=shapes",
        f"--config.data.data_dir={data_dir}",
        "--config.data.longer_side=48",
        "--config.batch_size=8",
        "--config.steps=6",
        "--config.log_every=1",
        "--config.checkpoint.every=2",
        "--config.evaluation.every=6",
        "--config.evaluation.pictures=1",
    )
    config.data.options = OPTIONS
    for override in overrides:
        field, value = override.split("=")
        config.update_from_flattened_dict({field: json.loads(value)})
    return config


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    config = shapes_config(data_dir)
    state = loop.train(config, workdir)
    return config, workdir, jax.device_get(state)


def test_a_run_leaves_its_record(finished):
    config, workdir, state = finished
    assert int(state.step) == 6
    rows = read_metrics(workdir / "metrics.jsonl")
    train = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in train] == [1, 2, 3, 4, 5, 6]
    for name in ("loss_objectness", "loss_box", "positives", "objectness_accuracy", "grad_norm"):
        assert all(np.isfinite(row[f"train/{name}"]) for row in train)
    validation = rows[-1]
    assert {"validation/loss", "validation/AR@10", "validation/AR@50"} <= validation.keys()
    assert {p.name for p in (workdir / "pictures/step_000006").iterdir()} == {
        "0_matches.png",
        "0_proposals.png",
    }
    (run,) = (json.loads(line) for line in (workdir / "runs.jsonl").read_text().splitlines())
    assert run["packages"]["jax"] == jax.__version__
    assert run["machine"]["devices"] == {"cpu": 8}
    assert list((workdir / "tensorboard").iterdir())
    assert Checkpoints(workdir, read_only=True).latest_step() == 6


def test_training_again_changes_nothing(finished):
    config, workdir, state = finished
    again = jax.device_get(loop.train(config, workdir))
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert [r["step"] for r in read_metrics(workdir / "metrics.jsonl")][-2:] == [6, 6]


def test_the_same_config_and_seed_give_the_same_bits_and_another_seed_does_not(
    finished, data_dir, tmp_path, request
):
    _, _, state = finished
    # What compiles in a moment is not kept, but counts as missing where it took longer this time.
    option = "jax_persistent_cache_min_compile_time_secs"
    request.addfinalizer(functools.partial(jax.config.update, option, getattr(jax.config, option)))
    jax.config.update(option, 2.0)
    compiled = []
    jax.monitoring.register_event_listener(
        lambda event, **_: event.endswith("/cache_misses") and compiled.append(event)
    )
    again, other = (
        loop.train(shapes_config(data_dir, seed, "evaluation.every=0"), tmp_path / seed)
        for seed in ("seed=0", "seed=1")
    )
    assert compiled == []  # all seeds share the programs of the first
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.params), state.params)
    kernel = jax.tree.leaves(jax.device_get(other.params))[-1]
    assert not np.array_equal(kernel, jax.tree.leaves(state.params)[-1])


def test_runs_that_differ_by_numbers_of_the_optimiser_share_one_program(data_dir, tmp_path, caplog):
    common = ("evaluation.every=0", "steps=2", "optimizer.clip_norm=3.5", "rpn.loss.balance=7.5")
    runs = [[f"optimizer.learning_rate={rate}"] for rate in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)]
    runs += [
        ["optimizer.weight_decay=0.01", "optimizer.momentum=0.5", "seed=3"],
        ['optimizer.schedule="cosine"', "optimizer.warmup_steps=2", "optimizer.clip_norm=9.0"],
    ]
    states = []
    with caplog.at_level(logging.DEBUG, logger="jax._src.compiler"):
        for number, fields in enumerate(runs):
            config = shapes_config(data_dir, *common, *fields)
            states.append(jax.device_get(loop.train(config, tmp_path / f"{number}").params))
    messages = [record.getMessage().lower() for record in caplog.records]
    # Each run has a step of its own, as in a process of its own; the largest program is the step's.
    keys = [m.split()[-1] for m in messages if "compilation cache" in m and "'jit__fun'" in m]
    assert len(keys) == len(runs)
    assert len(set(keys)) == 1
    kernels = [jax.tree.leaves(state)[-1].tobytes() for state in states]
    assert len(set(kernels)) == len(runs)


def test_evaluation_agrees_with_pycocotools_and_writes_its_files(finished):
    config, workdir, _ = finished
    table = evaluate_trained(config, workdir)
    folder = workdir / "evaluation" / "test"
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["images"] == OPTIONS["num_test"]
    assert figures["scalars"] == pytest.approx(figures["pycocotools"], abs=1e-6)
    assert "AR@50" in table
    assert (folder / "recall_to_iou.png").stat().st_size > 1000
    validation = read_metrics(workdir / "metrics.jsonl")[-1]
    assert figures["scalars"]["AR@50"] == pytest.approx(validation["validation/AR@50"])
    objects, class_names = read_objects(folder / "objects.npz")
    assert objects.average_recall(50) == pytest.approx(figures["scalars"]["AR@50"])
    assert len(objects.num_objects) == OPTIONS["num_test"]
    assert objects.class_index.max() < len(class_names)


def test_evaluation_without_parts_of_the_network(finished, monkeypatch):
    config, workdir, _ = finished
    fused_pmap(monkeypatch)
    figures = {}
    for parts in ([], ["nms"], ["ranking", "regression"]):
        evaluate_trained(config, workdir, without=parts)
        folder = workdir / "evaluation" / "-without-".join(["test", *parts])
        figures[len(parts)] = json.loads((folder / "figures.json").read_text())
    whole, unthinned, blind = figures.values()
    assert whole["losses"] == unthinned["losses"] == blind["losses"]
    assert whole["proposals"] < unthinned["proposals"] == blind["proposals"] == 50 * 11
    assert whole["recall"] != unthinned["recall"] != blind["recall"]


def test_out_of_memory_is_one_line_with_a_remedy(finished):
    config, workdir, _ = finished
    checkpoints = Checkpoints(workdir, read_only=True)
    plan, _ = loop.training_plan(config, open_split(config, "train"))
    advice = r"batch_size=8: out of memory \(.*last good checkpoint: step 6 .*accumulation=N"
    with (
        pytest.raises(UserError, match=advice),
        loop._explained(config, workdir, checkpoints, plan),
    ):
        jax.jit(lambda: jnp.ones(2**60))()


def test_jitter_puts_every_batch_on_one_canvas(data_dir):
    config = shapes_config(data_dir)
    config.data.jitter.scales, config.data.jitter.canvas = (0.1, 2.0), (32, 48)
    dataset = open_split(config, "train")
    plan, scales = loop.training_plan(config, dataset)
    cache = FeatureCache(config, build_network(config), {})  # not used
    sizes = set()
    for batch in loop.batches(config, dataset, plan, scales, cache, config.steps - 3):
        assert batch.images.shape[-3:] == (32, 48, 3)
        sizes.update(map(tuple, np.asarray(batch.image_hw).reshape(-1, 2)))
    assert len(sizes) > 8


def test_damaged_rows_are_passed_over_and_a_damaged_config_is_named(finished, tmp_path):
    config, workdir, _ = finished
    content = (workdir / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(content.replace(b'"step": 2', b'"step": \xff', 1))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) == len(read_metrics(workdir / "metrics.jsonl")) - 1
    content = (workdir / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(content.replace(b'"seed": 0', b'"seed": \xff', 1))
    with pytest.raises(UserError, match=r"config.json: .*damaged"):
        load_workdir_config(tmp_path)


def test_a_run_that_goes_on_with_other_data_says_so(finished, tmp_path, capsys):
    _, workdir, _ = finished
    rows = [json.loads(line) for line in (workdir / "runs.jsonl").read_text().splitlines()]
    other = copy.deepcopy(rows[-1]["data"])
    fingerprint._tell_other(tmp_path, rows, {"data": other})
    assert capsys.readouterr().err == ""
    other["train"]["images"] += 1
    fingerprint._tell_other(tmp_path, rows, {"data": other})
    line = capsys.readouterr().err
    assert line.startswith(f"{tmp_path}: goes on with other data than it began with: train.images")
    other["train"] = {**rows[-1]["data"]["train"], "pixels": "others"}
    fingerprint._tell_other(tmp_path, rows, {"data": other})
    assert "train.pixels is others" in capsys.readouterr().err
    del rows[-1]["data"]["train"]["pixels"]  # as of an earlier version
    fingerprint._tell_other(tmp_path, rows, {"data": other})
    assert capsys.readouterr().err == ""
    assert line.count("\n") == 1


def test_a_workdir_of_another_config_is_refused_by_field(finished, data_dir):
    _, workdir, _ = finished
    with pytest.raises(UserError, match=r"rpn.loss.balance: 3.0 here, 10.0 there"):
        loop.train(shapes_config(data_dir, "rpn.loss.balance=3.0"), workdir)


def test_a_checkpoint_of_another_network_is_refused(finished, data_dir):
    _, workdir, _ = finished
    with pytest.raises(UserError, match="does not fit"):
        load_trained(shapes_config(data_dir, "rpn.channels=24"), workdir)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_culprits(data_dir, tmp_path):
    config = shapes_config(data_dir, "optimizer.learning_rate=1e30", "log_every=3")
    config.checkpoint.every = 1
    with pytest.raises(
        UserError, match=r"after step 1, params\S+ holds .*, on images \[.*: none was"
    ):
        loop.train(config, tmp_path)
    assert not any((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("where", ["validation", "loss"])
def test_parameters_that_give_a_nan_are_set_aside_and_those_before_them_kept(
    data_dir, tmp_path, monkeypatch, where
):
    config = shapes_config(data_dir, "checkpoint.keep=1", "evaluation.every=4")
    fetch = loop.PendingMetrics.fetch

    def fails(self):
        if self._steps[-1][0] == 5:
            self._steps[-1][1]["loss"] = jnp.float32(np.nan)
        return fetch(self)

    if where == "validation":
        monkeypatch.setattr(loop, "evaluate", lambda *_: (None, {"loss": float("nan")}))
    else:
        monkeypatch.setattr(loop.PendingMetrics, "fetch", fails)
        config.evaluation.every = 0
    with pytest.raises(UserError, match=r"loss .* is nan, on .*; last good checkpoint: step 2 in"):
        loop.train(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["4"]


def test_a_batch_that_the_devices_cannot_share_is_refused(data_dir, tmp_path):
    with pytest.raises(UserError, match="config.batch_size=6: 8 devices cannot share it"):
        loop.train(shapes_config(data_dir, "batch_size=6"), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["checkpoint.keep_best=true", "evaluation.patience=3"])
def test_the_best_of_no_validations_is_refused(data_dir, tmp_path, field):
    config = shapes_config(data_dir, "evaluation.every=0", field)
    name, _, _ = field.partition("=")
    with pytest.raises(UserError, match=rf"config.{name}=.* config.evaluation.every=0 makes none"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("crowded", ["train", "test"])
def test_more_boxes_than_the_config_allows_are_refused_before_the_run(data_dir, tmp_path, crowded):
    config = shapes_config(data_dir)
    config.data[f"{'eval' if crowded == 'test' else 'train'}_split"] = crowded
    config.data.max_objects = 1
    if crowded == "test":  # the split of the validation has the most boxes
        config.data.max_objects = int(open_split(config, "train").num_objects.max())
    with pytest.raises(UserError, match=rf"max_objects=.* of split {crowded} has \d+ boxes"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_objects_is_refused_before_anything_is_compiled(voc, tmp_path, split):
    text = voc.annotation("a").read_text()
    only_a_crowd = text.replace("<difficult>0<", "<difficult>1<")
    voc.annotation("a").write_text(only_a_crowd)
    voc.names(split).write_text("a\nc\n")
    prepare_dataset("voc_folder", data_dir=tmp_path / "data", source=voc.root)
    config = small_config(
        "--config.data.dataset=voc_folder",
        f"--config.data.source={voc.root}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.batch_size=8",
    )
    with pytest.raises(UserError, match=f"split '{split}' has no objects in its 2 images"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def two_shapes(tmp_path_factory):
    """A folder in COCO's layout with images of two aspect ratios."""
    root = tmp_path_factory.mktemp("two_shapes")
    (root / "train").mkdir()
    (root / "annotations").mkdir()
    sizes = [(48, 64), (48, 48)] * 12
    images = [
        {"id": i, "file_name": f"{i}.png", "height": height, "width": width}
        for i, (height, width) in enumerate(sizes, start=1)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 6, 20, 18 + i % 9], "iscrowd": 0}
        for i in range(1, len(sizes) + 1)
    ]
    for image in images:
        pixels = np.full((image["height"], image["width"], 3), image["id"], np.uint8)
        cv2.imwrite(str(root / "train" / image["file_name"]), pixels)
    content = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "box"}],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    prepare_dataset("coco_json", data_dir=root / "prepared", source=root)
    return root


@pytest.mark.parametrize("augmentations", [(), ("crop", "color")])
def test_nothing_compiles_after_the_first_step_of_each_bucket(
    two_shapes, tmp_path, caplog, monkeypatch, augmentations
):
    # 24 images in batches of 8: two epochs, with a validation and a checkpoint at every step.
    config = small_config(
        "--config.data.dataset=coco_json",
        f"--config.data.source={two_shapes}",
        f"--config.data.data_dir={two_shapes / 'prepared'}",
        "--config.data.eval_split=train",
        f"--config.data.augmentations={augmentations}",
        "--config.batch_size=8",
        "--config.steps=7",
        "--config.log_every=1",
        "--config.checkpoint.every=1",
        "--config.evaluation.every=1",
        "--config.evaluation.pictures=0",
    )
    compilations_before_step = {}

    def compilations():
        messages = [record.getMessage() for record in caplog.records]
        return [message for message in messages if message.startswith("Compiling")]

    def add(self, step, *rest):
        # Called when a step was begun: by then its program has been compiled.
        compilations_before_step[step + 1] = len(compilations())
        original(self, step, *rest)

    original = loop.Progress.add
    monkeypatch.setattr(loop.Progress, "add", add)
    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level(logging.WARNING, logger="jax"):
            loop.train(config, tmp_path)
    finally:
        jax.config.update("jax_log_compiles", False)

    dataset = open_split(config, "train")
    buckets_of = loop.buckets(config, dataset)
    plan = BatchPlan(buckets_of.of_example, config.batch_size, config.seed)
    order = [plan.batch(step).bucket for step in range(config.steps)]
    assert len(buckets_of.canvases) == len(set(order)) == 2
    # One training and one evaluation program for each canvas, known by the images they take.
    assert sum("uint8[8,1," in message for message in compilations()) == 2 * 2
    warm = max(order.index(bucket) for bucket in set(order)) + 1  # steps count from 1
    # The validation after a step belongs to the step before the next.
    assert warm + 2 <= config.steps
    assert compilations()[compilations_before_step[warm + 2] :] == []


def test_input_wait_is_that_of_the_devices(data_dir, tmp_path):
    progress = loop.Progress(shapes_config(data_dir), tmp_path, 0)
    busy = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda _, x: jnp.sin(x @ x), x).sum())
    matrix = jnp.ones((500, 500))
    done = jax.block_until_ready(busy(matrix))

    def slow_batches(count):
        for _ in range(count):
            time.sleep(0.05)
            yield None

    for step, _ in enumerate(progress.watch(slow_batches(3)), 1):
        progress.add(step, {"loss": busy(matrix)})  # each of a second, say
    progress.log(3)
    for step, _ in enumerate(progress.watch(slow_batches(3)), 4):
        progress.add(step, {"loss": done})
    progress.log(6)
    progress.close()
    running, idle = (row["train/input_wait"] for row in read_metrics(tmp_path / "metrics.jsonl"))
    assert running == 0
    assert idle > 0.5


def test_a_run_killed_and_started_again_ends_with_the_same_bits(data_dir, tmp_path, finished):
    """SIGKILL in the middle, by a real process; the parameters are those of the unbroken run."""
    config, _, expected = finished
    workdir = tmp_path / "killed"
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from training.test_loop import OPTIONS, shapes_config\n"
        "from rpn_jax.training import loop\n"
        "import pathlib\n"
        "loop.train(shapes_config(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    command = [sys.executable, str(script), str(data_dir), str(workdir)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    while not (workdir / "checkpoints" / "2").is_dir() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    starts = [
        json.loads(line)["step"] for line in (workdir / "runs.jsonl").read_text().splitlines()
    ]
    assert starts[0] == 0
    assert starts[1] >= 2
    _, variables, step = load_trained(config, workdir)
    assert step == 6
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(variables["params"]), expected.params
    )
    rows = [r["step"] for r in read_metrics(workdir / "metrics.jsonl") if "train/loss" in r]
    assert rows == [1, 2, 3, 4, 5, 6]


def test_the_best_validation_is_kept_and_a_run_that_gets_no_better_ends(
    data_dir, tmp_path, monkeypatch, capsys
):
    measured = iter([0.2, 0.5, 0.4])

    def evaluate(config, results):
        recall = {"AR@10": 0.0, "AR@50": next(measured)}
        return Figures("AR@50", recall, "", {}), {"loss": 1.0}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    config = shapes_config(
        data_dir, "evaluation.every=1", "evaluation.patience=1", "checkpoint.keep=1",
        "checkpoint.keep_best=true", "checkpoint.every=5", "steps=9",
    )  # fmt: skip
    state = loop.train(config, tmp_path)
    assert int(state.step) == 3
    assert saved_steps(tmp_path) == [2, 3]
    assert "step 3: no validation was better than that of step 2" in capsys.readouterr().out
    again = loop.train(config, tmp_path)  # trains and measures nothing
    assert int(again.step) == 3
    assert read_run_state(tmp_path).state == "done"
    assert load(tmp_path, step="best").step == 2
    with pytest.raises(UserError, match="step='first': give a number or \"best\""):
        load(tmp_path, step="first")


def test_a_fork_goes_on_from_a_step_of_another_run_to_the_same_bits(finished, tmp_path, capsys):
    _, origin, state = finished
    overrides = ["--config.evaluation.every=0", "--config.checkpoint.keep=1"]
    config = forked_config(f"{origin}@4", overrides)
    forked = jax.device_get(loop.train(config, tmp_path / "fork"))
    jax.tree.map(np.testing.assert_array_equal, forked, state)
    recorded = load_workdir_config(tmp_path / "fork")
    assert (recorded.fork.run, recorded.fork.step) == (str(origin), 4)
    assert recorded.evaluation.every == 0
    rows = read_metrics(tmp_path / "fork" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 6]
    assert list(read_run(tmp_path / "fork").losses) == [(4, 5), (5, 6)]
    # With all of its checkpoints damaged it begins there once more.
    files = (tmp_path / "fork" / "checkpoints" / "6").rglob("*")
    flip_a_byte(max(filter(pathlib.Path.is_file, files), key=lambda file: file.stat().st_size))
    again = jax.device_get(loop.train(config, tmp_path / "fork"))
    jax.tree.map(np.testing.assert_array_equal, again, state)
    # It needs the other run no more.
    alone = forked_config(f"{tmp_path / 'fork'}@6", [*overrides, "--config.steps=7"])
    alone.fork.run = str(tmp_path / "gone")
    with pytest.raises(UserError, match=r"gone has no checkpoint of it; there are none"):
        loop.train(alone, tmp_path / "third")
    assert int(loop.train(config, tmp_path / "fork").step) == 6


@pytest.mark.parametrize(
    ("origin", "overrides", "line"),
    [
        ("RUN", [], "give RUN@STEP, such as runs/mine@3000, or RUN@best"),
        ("nowhere@4", [], "nowhere: no run was begun there"),
        (
            "RUN@5",
            [],
            "config.fork.step=5: RUN has no checkpoint of it; there are those of 2, 4, 6",
        ),
        ("RUN@6", [], "config.steps=6: the fork begins at step 6; give more steps"),
        ("RUN@4", ["--config.optimizer.name=adamw"], "does not fit this config: opt_state."),
        ("RUN@4", ["--config.fork.step=None"], "has a run without a step, or a step without a run"),
    ],
)
def test_a_fork_that_cannot_be_is_one_line(finished, tmp_path, origin, overrides, line):
    _, run, _ = finished
    with pytest.raises(UserError) as error:
        loop.train(forked_config(origin.replace("RUN", str(run)), overrides), tmp_path / "fork")
    assert line.replace("RUN has", f"{run} has") in str(error.value)
    assert not (tmp_path / "fork").exists()
