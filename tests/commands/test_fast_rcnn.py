"""A head alone on stored proposals, and in turns with an RPN, on the command line."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import safetensors.numpy
from training.small import BOX, FIELDS, of_fast_rcnn

import rpn_jax
from rpn_jax import alternating
from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.training.build import build_network, initial_variables

ALL = ("1_rpn", "2_fast_rcnn", "3_rpn", "4_fast_rcnn")
COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: "backend_compile" in event and COMPILED.append(event)
)
DATA = (
    "--config.data.dataset=shapes",
    "--config.data.options.image_size=48",
    "--config.data.options.num_train=16",
    "--config.data.options.num_test=8",
    "--config.data.shorter_side=48",
    "--config.data.longer_side=48",
    "--config.batch_size=8",
    "--config.steps=2",
    "--config.evaluation.every=0",
    "--config.checkpoint.every=1",
    "--config.model.output_stage=c1",  # compiles in less time
    "--config.model.norm=sync_batch_norm",  # has statistics
)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The flags of `train` for a Faster R-CNN, and those for a Fast R-CNN, on prepared shapes."""
    folder = tmp_path_factory.mktemp("fast")
    for detector in ("faster_rcnn", "fast_rcnn"):
        (folder / f"{detector}.py").write_text(
            "from rpn_jax.runs.config import default_config\n"
            f"def get_config():\n    return default_config('{detector}')\n"
        )
    data = (*DATA, f"--config.data.data_dir={folder / 'data'}")
    fields = [*FIELDS, *(flag for flag in BOX if "class_names" not in flag)]
    whole = f"--config={folder / 'faster_rcnn.py'}", *fields, *data
    fast = f"--config={folder / 'fast_rcnn.py'}", *of_fast_rcnn(fields), *data
    assert main(["prepare", *whole]) == 0
    return whole, fast


@pytest.fixture(scope="module")
def four(flags, tmp_path_factory):
    """The folder of the four steps of `alternate`."""
    folder = tmp_path_factory.mktemp("four")
    assert main(["alternate", *flags[0], f"--workdir={folder}"]) == 0
    return folder


@pytest.mark.compiles
def test_from_an_rpns_proposals_to_detections(four, tmp_path, capsys):
    first, second, out = four / "1_rpn", four / "2_fast_rcnn", tmp_path / "out"
    assert main(["propose", f"--workdir={first}", "--split=test", f"--out={out / 'test'}"]) == 0
    rows = json.loads((out / "test" / "proposals.json").read_text())
    with np.load(first / "proposals" / "train" / "proposals.npz") as file:
        assert file["counts"].sum() == len(file["boxes"])
        assert set(file["counts"].tolist()) <= set(range(41))  # 40 at most, with any score
    assert not (out / "test" / "pictures").exists()

    given = f"--config.data.proposals.eval={out / 'test' / 'proposals.json'}"
    recorded = json.loads((second / "runs.jsonl").read_text().splitlines()[0])
    assert len(recorded["data"]["train"]["proposals"]) == 64
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={second}", given]) == 0
    assert "pycocotools" in capsys.readouterr().out
    figures = json.loads((second / "evaluation" / "test" / "figures.json").read_text())
    assert figures["headline"] == "AP"
    assert figures["proposals"] == len(rows)
    assert figures["losses"].keys() >= {"loss", "loss_class", "loss_class_box"}
    assert not [name for name in figures["losses"] if "objectness" in name]

    assert main(["detect", f"--workdir={second}", "--split=test", given, f"--out={out}"]) == 0
    found = json.loads((out / "detections.json").read_text())
    assert found
    assert {row["image_id"] for row in found} <= {row["image_id"] for row in rows}
    names = json.loads((second / "config.json").read_text())["box"]["class_names"]
    assert {row["category"] for row in found} <= set(names)

    # What needs an RPN says so.
    image = tmp_path / "a.jpg"
    image.touch()
    model = rpn_jax.load(second)
    for use in (model.propose, model.detect):
        with pytest.raises(UserError, match="holds a Fast R-CNN, which has no RPN"):
            use(image)
    for command in (
        ["detect", str(image), f"--out={out}"],
        ["propose", "--split=test", f"--out={out}"],
        ["evaluate", "--without=nms"],
        ["export", f"--out={out / 'a.jax'}", "--image_size=48x48"],
    ):
        capsys.readouterr()
        assert main([command[0], f"--workdir={second}", *command[1:]]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds a Fast R-CNN, which has no RPN" in line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "config.data.proposals.train: is None, but the detector has no RPN; give a file"),
        (["train=/nowhere.json"], "/nowhere.json: cannot be read as proposals"),
        (["train=FILE"], "FILE: has proposals of image 977, which shapes train has not; give"),
        (["eval_top_n=0"], "config.data.proposals.eval_top_n=0: give a whole number from 1 up"),
    ],
)
def test_proposals_that_do_not_fit(given, said, flags, tmp_path, capsys):
    file = tmp_path / "other.json"
    file.write_text(json.dumps([{"image_id": 977, "bbox": [0, 0, 9, 9], "score": 1}]))
    fields = [f"--config.data.proposals.{field}".replace("FILE", str(file)) for field in given]
    COMPILED.clear()
    capsys.readouterr()
    assert main(["train", *flags[1], *fields, f"--workdir={tmp_path / 'run'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said.replace("FILE", str(file)) in line
    assert COMPILED == []
    assert not (tmp_path / "run").exists()


def test_each_detector_has_fields_of_its_own(flags, capsys):
    assert "rpn" not in default_config("fast_rcnn")
    assert "proposals" not in default_config("faster_rcnn").data
    (whole, *_), (fast, *_) = flags
    for file, field, having in (
        (whole, "data.proposals.train=a.json", "fast_rcnn"),
        (fast, "rpn.channels=8", "rpn"),
    ):
        capsys.readouterr()
        assert main(["info", file, f"--config.{field}"]) == 1
        assert f'begin with default_config("{having}"), which has it' in capsys.readouterr().err


def test_info_and_anchors(flags, capsys):
    fast = flags[1]
    assert main(["info", *fast]) == 0
    table = capsys.readouterr().out
    assert "300 of config.data.proposals.eval_top_n" in table
    assert "anchors" not in table
    assert main(["anchors", *fast, "--out=/nowhere"]) == 1
    assert "a fast_rcnn has no anchors" in capsys.readouterr().err


def arrays_of(folder):
    return {
        file.parent.name: safetensors.numpy.load_file(file)
        for file in folder.rglob("*.safetensors")
    }


@pytest.mark.compiles
def test_alternating_steps_share_features_and_make_one_detector(four):
    of = arrays_of(four)
    whole = of[four.name]
    kernel = next(name for name in whole if "backbone" in name and "kernel" in name)
    mean = next(name for name in whole if name.startswith("batch_stats/") and "mean" in name)
    for name, array in whole.items():
        part = name.split("/")[1]
        kept = {"backbone": "2_fast_rcnn", "rpn": "3_rpn", "box": "4_fast_rcnn"}[part]
        np.testing.assert_array_equal(array, of[kept][name], err_msg=name)
        if part == "backbone":
            np.testing.assert_array_equal(array, of["3_rpn"][name], err_msg=name)
            np.testing.assert_array_equal(array, of["4_fast_rcnn"][name], err_msg=name)
    for name, first, last in (
        (kernel, "1_rpn", "2_fast_rcnn"),
        (mean, "1_rpn", "2_fast_rcnn"),
        ("params/rpn/conv/kernel", "1_rpn", "3_rpn"),
        ("params/box/fc6/kernel", "2_fast_rcnn", "4_fast_rcnn"),
    ):
        assert (of[first][name] != of[last][name]).any(), name
    model = rpn_jax.load(four / "detector.safetensors")
    names = load_workdir_config(four / "4_fast_rcnn").box.class_names
    assert model.class_names == names != ()


def test_a_steps_config_says_what_it_begins_from_and_reads(four):
    configs = {name: load_workdir_config(four / name) for name in sorted(ALL)}
    begun = {name: config.model.pretrained for name, config in configs.items()}
    trained = str(four / "2_fast_rcnn" / "trained.safetensors")
    assert begun == dict(zip(sorted(ALL), [None, None, trained, trained], strict=True))
    assert [config.model.frozen_stages for config in configs.values()] == [0, 0, 1, 1]
    for name, step in (("2_fast_rcnn", "1_rpn"), ("4_fast_rcnn", "3_rpn")):
        file = four / step / "proposals" / "train" / "proposals.npz"
        assert configs[name].data.proposals.train == str(file)
        assert configs[name].data.proposals.eval is None  # nothing is validated
        assert file.exists()
    # The first two begin alike, though nothing is loaded.
    drawn = [
        initial_variables(config, build_network(config), None)["params"]["backbone"]
        for config in (configs["1_rpn"], configs["2_fast_rcnn"])
    ]
    jax.tree.map(np.testing.assert_array_equal, *drawn)


@pytest.mark.compiles
def test_what_is_missing_is_done_again_with_the_same_bits(flags, four, monkeypatch, capsys):
    """As a kill in step 2 leaves it, after the first checkpoint; the proposals are lost as well."""
    step = "2_fast_rcnn"
    detector = four / "detector.safetensors"
    before = safetensors.numpy.load_file(detector)
    detector.unlink()
    (four / step / "trained.safetensors").unlink()
    for folder in (f"{step}/checkpoints/2", "1_rpn/proposals", "3_rpn", "4_fast_rcnn"):
        shutil.rmtree(four / folder)
    done = (four / "1_rpn" / "runs.jsonl").read_text()
    command = ["alternate", *flags[0], f"--workdir={four}"]
    with monkeypatch.context() as patched:
        terminate = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        patched.setattr(alternating, "write_proposals", terminate)
        capsys.readouterr()
        assert main(command) == os.EX_TEMPFAIL
    assert "stopped between two runs; the same command goes on" in capsys.readouterr().err
    assert main(["status", str(four)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["1_rpn", "done"], [step, "stopped"]]
    assert lines[-1] == "1 done, 1 stopped, 2 waiting"
    assert main(command) == 0
    after = safetensors.numpy.load_file(detector)
    assert after.keys() == before.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert (four / "1_rpn" / "runs.jsonl").read_text() == done
    starts = [json.loads(row)["step"] for row in (four / step / "runs.jsonl").open()]
    assert starts[-2:] == [0, 1]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--config.seed=1", "1_rpn: was begun with another config (seed: 1 here, 0 there)"),
        ("--3_rpn.steps=9", "3_rpn: was begun with another config (steps: 9 here, 2 there)"),
        (
            "--fast_rcnn.box.channels=0",
            "config.box.channels=0: give a whole number from 1 to 65536",
        ),
        ("--config.joint.box_gradient=true", "config.joint.box_gradient: is of joint training"),
        ("--rpn.stepz=9", "--rpn.stepz: there is no such field; did you mean --rpn.steps"),
        ("--3_rpn.deterministic=true", "--3_rpn.deterministic: is of the whole process"),
        ("--5_rpn.steps=9", "--5_rpn: there is no such step; there are rpn, fast_rcnn, 1_rpn, 2_"),
        ("--rpn.steps", "--rpn.steps: write --rpn.steps=VALUE"),
        ("--rpn.steps=0", "step 1_rpn: config.steps=0: give a whole number"),
        (
            "--rpn.model.pretrained=vgg16.npz",
            "--rpn.model.pretrained: 3_rpn begins from 2_fast_rcnn, whose features it keeps; leave "
            "it out, or give it to 1_rpn alone",
        ),
        ("--3_rpn.model.frozen_stages=0", "--3_rpn.model.frozen_stages: 3_rpn begins from 2_fast"),
        (
            "--4_fast_rcnn.data.proposals.train=x.npz",
            "--4_fast_rcnn.data.proposals.train: 4_fast_rcnn has the proposals of 3_rpn; leave it",
        ),
        (
            "--4_fast_rcnn.box.channels=8",
            ", but the steps make one network; give the field that does this as --config.FIELD",
        ),
        ("--rpn.box.channels=9", "box.channels: this detector has no such field"),
        ("--3_rpn.data.max_objects=1", "step 3_rpn: config.data.max_objects=1: "),
    ],
)
def test_alternate_refuses(flag, said, flags, four, capsys):
    COMPILED.clear()
    capsys.readouterr()
    assert main(["alternate", *flags[0], f"--workdir={four}", flag]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert COMPILED == []


@pytest.mark.parametrize("name", ["detector.safetensors", "2_fast_rcnn/trained.safetensors"])
def test_alternate_names_a_damaged_file(name, flags, four, capsys):
    whole = (four / name).read_bytes()
    (four / name).write_bytes(whole[:500])
    try:
        capsys.readouterr()
        assert main(["alternate", *flags[0], f"--workdir={four}"]) == 1
    finally:
        (four / name).write_bytes(whole)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {four / name}: is damaged")
    assert line.endswith("or delete it: the same command writes it again")


def test_alternate_notices_steps_that_were_made_from_others(flags, four, tmp_path, capsys):
    folder = tmp_path / "four"
    shutil.copytree(four, folder, symlinks=True)
    command = ["alternate", *flags[0], f"--workdir={four}"]

    def refused(said):
        capsys.readouterr()
        assert main(command) == 1
        assert said in capsys.readouterr().err

    def put_back(name):
        shutil.copy(folder / name, four / name)

    trained = four / "2_fast_rcnn" / "trained.safetensors"
    content = bytearray(trained.read_bytes())
    content[-1] ^= 1
    trained.write_bytes(content)
    refused(
        f"{four / '3_rpn'}: was made from another {trained}; delete that file if it is damaged, or "
        "3_rpn 4_fast_rcnn and detector.safetensors to do them again from it"
    )
    put_back("2_fast_rcnn/trained.safetensors")
    (four / "3_rpn" / "config.json").unlink()
    refused(f"{four / '3_rpn'}: has a trained.safetensors, but no config.json; put that back")
    put_back("3_rpn/config.json")
    (four / "3_rpn" / "trained.safetensors").unlink()
    refused("detector.safetensors: is there, but 3_rpn is not done; delete detector.safetensors")
    (four / "detector.safetensors").unlink()
    assert main(command) == 0  # is written again with the same bits, or step 4 would be refused
    for name in ("3_rpn/trained.safetensors", "detector.safetensors"):
        assert (four / name).read_bytes() == (folder / name).read_bytes()


def test_alternate_says_how_to_mend_damaged_proposals(four, tmp_path):
    file = tmp_path / "1_rpn" / "proposals" / "train" / "proposals.npz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK")
    step, reader = (load_workdir_config(four / name) for name in ("1_rpn", "2_fast_rcnn"))
    with pytest.raises(UserError) as caught:
        alternating._propose(alternating.STEPS[0], step, reader, tmp_path)
    said = "is damaged; delete it: the same command writes it again"
    assert str(caught.value) == f"{file}: {said}"


def test_alternate_in_a_moved_folder_says_where_it_was(flags, four, tmp_path, capsys):
    for step in (1, 2, 3, 4):
        (folder,) = four.glob(f"{step}_*")
        (tmp_path / folder.name).mkdir()
        shutil.copy(folder / "config.json", tmp_path / folder.name)
    capsys.readouterr()
    assert main(["alternate", *flags[0], f"--workdir={tmp_path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: was begun as {four}, where its runs look for each other; move it" in line


def test_alternate_works_in_one_process(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert main(["alternate", *flags[0], f"--workdir={tmp_path / 'run'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "alternate: is one of 4 processes of a job" in line


def test_a_folder_of_four_steps_says_where_its_detector_is(four, capsys):
    assert main(["detect", "--split=test", f"--workdir={four}", "--out=/nowhere"]) == 1
    assert f"give --weights={four / 'detector.safetensors'}" in capsys.readouterr().err


def test_alternate_takes_the_config_of_a_whole_detector(flags, tmp_path, capsys):
    assert main(["alternate", *flags[1], f"--workdir={tmp_path / 'run'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'begin the config with default_config("faster_rcnn")' in line
    assert not (tmp_path / "run").exists()
