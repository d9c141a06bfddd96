"""The shell blocks of the pages run from top to bottom, on small data and with small networks.

What a reader has to bring lies in the folder: `FOLDER` and `PHOTOS` are as the pages call them.
"""

import shutil
import subprocess
import sys

import pytest
from documents import ROOT, blocks, command_words
from folders import CocoFolder, VocFolder, picture
from training.small import BOX, FIELDS, MASK, of_fast_rcnn

from rpn_jax.__main__ import main
from rpn_jax.runs.config_files import load_config

pytestmark = pytest.mark.compiles
PAGES = ("data", "configs", "detectors", "evaluation", "sweeps", "training", "weights")
# Wants what is not here: weights of others, whole datasets, the Hub, machines that wait for each
# other, a compiler for them.
ELSEWHERE = (
    *(".pth", "coco.safetensors", "vgg16", "resnet50", "hf://", "--coordinator"),
    *("wandb", "--topology"),
)
SMALL = (
    "--config.data.shorter_side=48",
    "--config.data.longer_side=48",
    "--config.data.num_buckets=1",
    "--config.model.output_stage=c1",
    "--config.model.norm=sync_batch_norm",
    "--config.batch_size=8",
    "--config.optimizer.warmup_steps=0",
    "--config.evaluation.every=0",
    "--config.checkpoint.every=1",
)
SMALL_SHAPES = (
    "--config.data.options.image_size=48",
    "--config.data.options.num_train=8",
    "--config.data.options.num_test=8",
)
# Steps and checkpoints that the pages name, in place of hundreds.
SHORTER = {
    "runs/mine@400": "runs/mine@1",
    "--images=24": "--images=2",
    '{"steps": 100}': '{"steps": 2}',
    "seeds(3)": "seeds(1)",
}


# What a page takes for granted, from those before it.
_VALIDATED = ["--config.evaluation.every=2", "--config.checkpoint.keep_best=True"]
_TRAINED = ["train", "--config=shapes", "--workdir=runs/mine", *_VALIDATED]
_EVALUATED = ["evaluate", "--workdir=runs/mine"]
_PREPARED = ["prepare", "--config=bccd", "--config.data.source=FOLDER"]
OF_BEFORE = {
    "evaluation": [_TRAINED],
    "sweeps": [_TRAINED, _EVALUATED],
    "training": [_TRAINED, _PREPARED],
    "weights": [_TRAINED],
}


def shortened(text: str) -> str:
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


def shrunk(words: list[str]) -> list[str]:
    """A command with fields that make its network and its data small, where it takes fields."""
    words = [shortened(word) for word in words]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    name = given.get("--config", "shapes" if "--sweep" in given else None)
    if name is None:
        return [*words, "--config.steps=3"] if "--from" in given else words
    config = load_config(name, [])
    stages = [*FIELDS]
    if config.detector != "rpn":
        stages += [flag for flag in BOX if "class_names" not in flag]
    if config.detector == "mask_rcnn":
        stages += MASK
    if config.detector == "fast_rcnn":
        stages = of_fast_rcnn(stages)
    shapes = SMALL_SHAPES if config.data.dataset == "shapes" else ()
    steps = () if words[0] == "sweep" else ("--config.steps=2",)
    fields = (*stages, *SMALL, *shapes, *steps)
    own = [word.partition("=")[0] for word in words]
    return [*words, *(field for field in fields if field.partition("=")[0] not in own)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of a reader who has a dataset in three layouts, and photographs."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "FOLDER"
    VocFolder(root)
    coco = CocoFolder(root)
    text = coco.file.read_text()
    for name in ("annotations/instances_train.json", "boxes.json", "more.json"):
        (root / name).write_text(text)
    for name in ("train", "pictures"):
        shutil.copytree(root / "val", root / name)
    (tmp_path / "PHOTOS").mkdir()
    (tmp_path / "PHOTOS" / "a photograph.jpg").write_bytes(picture("a", 48, 64))
    assert main(["prepare", *shrunk(["--config=shapes_mask_rcnn"])]) == 0
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, folder, capsys):
    document = ROOT / "docs" / f"{page}.md"
    for words in OF_BEFORE.get(page, ()):
        assert main(shrunk(words)) == 0, (words, capsys.readouterr().err)
    for name in ("first", "second") if page == "sweeps" else ():
        shutil.copytree("runs/mine", f"runs/{name}")
    run = 0
    for block in blocks(document, "bash", "python"):
        if block.language == "python":
            if block.title:
                (folder / block.title).write_text(shortened(block.text))
            continue
        for words in command_words(block.text):
            if words[0] != "rpn-jax" or any(part in " ".join(words) for part in ELSEWHERE):
                continue
            if words[1] == "sweep":  # what it starts takes the streams of this process for its own
                command = [sys.executable, "-m", "rpn_jax", *shrunk(words[1:])]
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            else:
                assert main(shrunk(words[1:])) == 0, (words, capsys.readouterr().err)
            run += 1
    assert run >= 2
