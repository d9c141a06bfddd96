"""The command line, as a user meets it: what it writes, and one clear line for what is wrong."""

import json
import math
import pathlib
import shlex

import jax
import numpy as np
import pytest
from folders import IMAGES, turned_image

from rpn_jax.__main__ import COMMANDS, main
from rpn_jax.data.datasets import prepare_dataset

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: "backend_compile" in event and COMPILED.append(event)
)


@pytest.fixture(autouse=True)
def nothing_may_compile(request):
    """Bad input must be met before any compilation begins."""
    COMPILED.clear()
    yield
    if "compiles" not in request.keywords:
        assert COMPILED == []


@pytest.fixture
def fails(capsys):
    """Runs a command that must fail and returns the one line that it says."""

    def run(*argv: str) -> str:
        assert main(list(argv)) == 1
        captured = capsys.readouterr()
        lines = [
            line for line in captured.err.splitlines() if "it/s" not in line and "%|" not in line
        ]
        (line,) = (line for line in lines if line)
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture
def voc_flags(voc, tmp_path):
    """The flags that point a config to the small VOC folder."""
    return (
        f"--config={CONFIGS / 'bccd.py'}",
        f"--config.data.source={voc.root}",
        f"--config.data.data_dir={tmp_path / 'prepared'}",
        "--config.batch_size=8",
        "--config.evaluation.batch_size=1",
    )


def test_a_typo_in_a_config_field(fails, tmp_path):
    line = fails(
        "train",
        f"--config={CONFIGS / 'shapes.py'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.rpn.loss.balanc=1",
    )
    assert "--config.rpn.loss.balanc" in line
    assert "did you mean --config.rpn.loss.balance" in line


def test_a_missing_folder(fails, tmp_path):
    folder = tmp_path / "nowhere"
    line = fails(
        "prepare",
        f"--config={CONFIGS / 'bccd.py'}",
        f"--config.data.source={folder}",
        f"--config.data.data_dir={tmp_path}",
    )
    assert str(folder) in line


def test_a_truncated_jpeg(fails, voc, voc_flags, capsys):
    path = voc.image("b")
    path.write_bytes(path.read_bytes()[:-300])
    assert str(path) in fails("prepare", *voc_flags)
    assert main(["prepare", *voc_flags, "--skip-bad"]) == 0
    assert str(path) in capsys.readouterr().out


def test_an_empty_split(fails, voc, voc_flags):
    voc.names("test").write_text("\n")
    assert str(voc.names("test")) in fails("prepare", *voc_flags)


def test_an_annotation_of_a_missing_image(fails, voc, voc_flags):
    voc.image("a").unlink()
    assert str(voc.annotation("a")) in fails("prepare", *voc_flags)


def test_a_box_without_area_is_dropped_and_reported_by_file(voc, voc_flags, capsys):
    text = voc.annotation("e").read_text()
    voc.annotation("e").write_text(text.replace("<xmax>33", "<xmax>3"))
    assert main(["prepare", *voc_flags]) == 0
    report = capsys.readouterr().out
    (line,) = (line for line in report.splitlines() if "no area" in line)
    assert "e.xml" in line


def test_a_coordinate_that_is_not_a_number(fails, voc, voc_flags):
    text = voc.annotation("e").read_text()
    voc.annotation("e").write_text(text.replace("<xmax>33", f"<xmax>{math.nan}"))
    line = fails("prepare", *voc_flags)
    assert "e." in line
    assert "number" in line


def test_a_dataset_that_was_not_prepared(fails, voc_flags, tmp_path):
    line = fails("train", *voc_flags, f"--workdir={tmp_path / 'run'}")
    # The advice is a command to copy, with the config that was used.
    assert f" prepare {shlex.join(voc_flags[:3])}" in line
    assert not (tmp_path / "run").exists()


def test_a_split_that_the_prepared_dataset_lacks(fails, voc_flags, tmp_path):
    line = fails("prepare", *voc_flags, "--config.data.eval_split=val")
    assert "config.data.eval_split=val: voc_folder: there is no split 'val'; there are: " in line
    assert main(
        ["prepare", *voc_flags, "--config.data.eval_split=val", "--config.evaluation.every=0"]
    ) == 0  # fmt: skip


def test_weights_of_another_model(fails, voc, voc_flags, tmp_path):
    prepare_dataset("voc_folder", data_dir=tmp_path / "prepared", source=voc.root)
    weights = tmp_path / "weights.npz"
    np.savez(weights, conv1_1_w=np.zeros((7, 7, 3, 64), np.float32))
    flags = (*voc_flags, f"--workdir={tmp_path / 'run'}", f"--config.model.pretrained={weights}")
    line = fails("train", *flags, "--config.model.input_convention=centred")
    assert "config.model.input_convention" in line
    line = fails("train", *flags, "--config.model.input_convention=caffe")
    assert "config.model.backbone" in line


def test_a_workdir_of_another_config(fails, voc, voc_flags, tmp_path):
    prepare_dataset("voc_folder", data_dir=tmp_path / "prepared", source=voc.root)
    from rpn_jax.runs.config_files import load_config
    from rpn_jax.runs.workdir import claim_workdir

    workdir = tmp_path / "run"
    with claim_workdir(workdir, load_config(voc_flags[0].split("=")[1], voc_flags[1:])):
        pass
    line = fails("train", *voc_flags, f"--workdir={workdir}", "--config.seed=3")
    assert str(workdir) in line
    assert "seed: 3 here, 0 there" in line


def test_no_images_given_to_propose(fails, tmp_path):
    line = fails("propose", f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}")
    assert "no images given" in line
    (tmp_path / "empty").mkdir()
    line = fails("propose", f"--workdir={tmp_path}", f"--folder={tmp_path / 'empty'}", "--out=out")
    assert "empty: no images are in it or below" in line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["evaluate", "--workdir=~/r"], "{home}/r: "),
        (["propose", "--weights=~/r.safetensors", "--out=o", "{home}"], "{home}/r.safetensors"),
        (["propose", "--workdir=w", "--out=o", "~/none.jpg"], "{home}/none.jpg: no such image"),
        (["propose", "--workdir=w", "--out=o", "--folder=~/none"], "={home}/none: no such folder"),
        (
            ["propose", "--workdir=w", "--out=o", f"--folder={__file__}"],
            "commands.py: not a folder",
        ),
        (["export-weights", "--workdir=~/r", "--out=~/m.safetensors"], "{home}/r: "),
        (["train", "--config=~/mine.py", "--workdir=~/r"], "mine.py: "),
        (["status", "~/r"], "{home}/r"),
        (["report", "~/r"], "{home}/r"),
        (["compare", "~/a", "~/b"], "{home}/a"),
        (["import-weights", "~/w.pth", "--model=vgg16", "--out=x.safetensors"], "{home}/w.pth"),
    ],
)
def test_a_tilde_in_a_path_is_the_home_folder(argv, said, fails, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "mine.py").write_text("1 / 0")
    line = fails(*(text.format(home=tmp_path) for text in argv))
    assert said.format(home=tmp_path) in line


def test_a_folder_where_nothing_was_trained(fails, tmp_path):
    line = fails("evaluate", f"--workdir={tmp_path}")
    assert str(tmp_path) in line


def test_a_batch_that_the_devices_cannot_share(fails, voc_flags, tmp_path):
    line = fails("train", *voc_flags, f"--workdir={tmp_path / 'run'}", "--config.batch_size=3")
    assert "config.batch_size=3: 8 devices cannot share it evenly; give a multiple of 8" in line


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    text = capsys.readouterr().out
    assert "rpn-jax" in text
    assert "--help" in text


SMALL = (
    "--config.model.backbone=resnet18",
    "--config.model.output_stage=c2",
    "--config.rpn.channels=16",
    "--config.data.shorter_side=48",
    "--config.data.longer_side=48",  # one canvas for all, so that little is compiled
    "--config.rpn.anchors.sizes=(8.0,16.0)",
    "--config.steps=2",
    "--config.evaluation.every=0",
)


@pytest.mark.compiles
def test_from_photographs_to_proposals(voc, voc_flags, tmp_path, capsys):
    workdir, out = tmp_path / "run", tmp_path / "out"
    assert main(["prepare", *voc_flags]) == 0
    assert main(["train", *voc_flags, *SMALL, f"--workdir={workdir}"]) == 0
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    said = capsys.readouterr()
    assert "pycocotools" in said.out
    assert "training" not in said.err
    starts = workdir / "runs.jsonl"
    recorded = json.loads(starts.read_text())
    recorded["data"]["eval"] = {**recorded["data"]["train"], "split": "test"}
    starts.write_text(json.dumps(recorded) + "\n")
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    assert "test has changed since the training: images is 2, was 5" in capsys.readouterr().err
    weights = tmp_path / "model.safetensors"
    assert main(["export-weights", f"--workdir={workdir}", f"--out={weights}"]) == 0
    assert main(["evaluate", f"--weights={weights}", f"--out={out / 'evaluation'}"]) == 0
    files = (workdir / "evaluation" / "test" / "figures.json", out / "evaluation" / "figures.json")
    figures, again = (json.loads(file.read_text()) for file in files)
    assert {**again, "seconds": figures["seconds"]} == figures

    folder = f"--folder={voc.root / 'JPEGImages'}"
    assert main(["propose", f"--workdir={workdir}", folder, f"--out={out}"]) == 0
    rows = json.loads((out / "proposals.json").read_text())
    assert sorted({row["file_name"] for row in rows}) == [str(voc.image(name)) for name in IMAGES]
    for row in rows:
        image = IMAGES[pathlib.Path(row["file_name"]).stem]
        x, y, width, height = row["bbox"]
        assert x >= 0 <= y
        assert width > 0 < height
        assert x + width <= image.width + 1e-3
        assert y + height <= image.height + 1e-3
        assert 0 <= row["score"] <= 1
    assert {path.stem for path in (out / "pictures").iterdir()} == set(IMAGES)

    again = ["propose", f"--weights={weights}", folder, f"--out={out / 'again'}", "--draw=0"]
    assert main(again) == 0
    assert json.loads((out / "again" / "proposals.json").read_text()) == rows

    voc.image("b").write_bytes(b"no image")
    status = main(
        ["propose", f"--workdir={workdir}", folder, f"--out={out / 'npz'}", "--format=npz"]
    )
    assert status == 1
    assert str(voc.image("b")) in capsys.readouterr().err
    with np.load(out / "npz" / "a.npz") as arrays:
        same = [row for row in rows if row["file_name"] == str(voc.image("a"))]
        assert len(arrays["scores"]) == len(same)
        np.testing.assert_allclose(arrays["scores"], [row["score"] for row in same], atol=1e-5)

    place = f"--out={out / 'nothing'}"
    assert main(["propose", f"--workdir={workdir}", str(voc.image("b")), place]) == 1
    assert "error: 1 of 1 images: " in capsys.readouterr().err
    assert not (out / "nothing").exists()  # and no list that says of an image that it has nothing

    # What cannot be read does not keep the others from their proposals.
    broken = tmp_path / "broken"
    (broken / "folder.jpg").mkdir(parents=True)
    (broken / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for name in ("a.jpg", "a.png"):
        (broken / name).write_bytes(voc.image("a").read_bytes())
    flags = [f"--out={out / 'broken'}", "--format=npz", "--draw=1"]
    assert main(["propose", f"--workdir={workdir}", str(broken), *flags]) == 1
    error = capsys.readouterr().err
    assert "error: 2 of 4 images: " in error
    assert error.endswith(f"; {out / 'broken'} has what was found in the other 2\n")
    assert f"{broken / 'folder.jpg'}: not a regular file" in error
    assert f"{broken / 'link.jpg'}: cannot be read" in error
    assert len(list((out / "broken").glob("*a*.npz"))) == 2
    assert len(list((out / "broken" / "pictures").glob("*a*.jpg"))) == 2

    # A photograph as a phone writes it has the proposals of the one that a viewer shows.
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    (tmp_path / "turned.png").write_bytes(turned_image(np.rot90(pixels).copy(), 6, "PNG"))
    (tmp_path / "shown.png").write_bytes(turned_image(pixels, 1, "PNG"))
    photographs = [str(tmp_path / "turned.png"), str(tmp_path / "shown.png")]
    flags = [f"--out={out / 'phone'}", "--format=npz", "--draw=0"]
    assert main(["propose", f"--workdir={workdir}", *photographs, *flags]) == 0
    turned, shown = (np.load(out / "phone" / f"{name}.npz") for name in ("turned", "shown"))
    assert len(shown["scores"]) > 0
    np.testing.assert_array_equal(turned["boxes"], shown["boxes"])
