"""A head alone on stored proposals: propose, train, evaluate and detect on the command line."""

import json

import jax
import numpy as np
import pytest
from training.small import BOX, FIELDS, of_fast_rcnn

import rpn_jax
from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config

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
    "--config.model.output_stage=c1",  # compiles in less time
)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The flags of `train` for an RPN, and those for a Fast R-CNN, on prepared shapes."""
    folder = tmp_path_factory.mktemp("fast")
    for detector in ("rpn", "fast_rcnn"):
        (folder / f"{detector}.py").write_text(
            "from rpn_jax.runs.config import default_config\n"
            f"def get_config():\n    return default_config('{detector}')\n"
        )
    data = (*DATA, f"--config.data.data_dir={folder / 'data'}")
    rpn = f"--config={folder / 'rpn.py'}", *FIELDS, *data
    classes = [flag for flag in BOX if "class_names" not in flag]
    fast = f"--config={folder / 'fast_rcnn.py'}", *of_fast_rcnn([*FIELDS, *classes]), *data
    assert main(["prepare", *rpn]) == 0
    return rpn, fast


@pytest.mark.compiles
def test_from_an_rpns_proposals_to_detections(flags, tmp_path, capsys):
    rpn, fast = flags
    first, second, out = tmp_path / "rpn", tmp_path / "fast", tmp_path / "out"
    assert main(["train", *rpn, f"--workdir={first}"]) == 0
    for split, file_format in (("train", "npz"), ("test", "json")):
        more = f"--split={split}", f"--format={file_format}", f"--out={out / split}"
        assert main(["propose", f"--workdir={first}", *more]) == 0
    rows = json.loads((out / "test" / "proposals.json").read_text())
    with np.load(out / "train" / "proposals.npz") as file:
        assert file["counts"].sum() == len(file["boxes"])
        assert set(file["counts"].tolist()) <= set(range(21))  # 20 at most, with any score
    assert not (out / "test" / "pictures").exists()

    given = (
        f"--config.data.proposals.train={out / 'train' / 'proposals.npz'}",
        f"--config.data.proposals.eval={out / 'test' / 'proposals.json'}",
    )
    assert main(["train", *fast, *given, f"--workdir={second}"]) == 0
    recorded = json.loads((second / "runs.jsonl").read_text().splitlines()[0])
    assert len(recorded["data"]["train"]["proposals"]) == 64
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={second}"]) == 0
    assert "pycocotools" in capsys.readouterr().out
    figures = json.loads((second / "evaluation" / "test" / "figures.json").read_text())
    assert figures["headline"] == "AP"
    assert figures["proposals"] == len(rows)
    assert figures["losses"].keys() >= {"loss", "loss_class", "loss_class_box"}
    assert not [name for name in figures["losses"] if "objectness" in name]

    assert main(["detect", f"--workdir={second}", "--split=test", f"--out={out}"]) == 0
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
    (config, *_), (fast, *_) = flags
    for file, field, having in (
        (config, "data.proposals.train=a.json", "fast_rcnn"),
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
