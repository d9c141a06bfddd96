"""`rpn-jax anchors`, as a user meets it."""

import pathlib
import re

import cv2
import numpy as np
import pytest

from rpn_jax.__main__ import main
from rpn_jax.data.datasets import prepare_dataset
from rpn_jax.data.proposals import read_proposals
from rpn_jax.data.transforms import resized_hw
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides, load_config
from rpn_jax.training.splits import open_split

CONFIG = pathlib.Path(__file__).parents[2] / "configs/bccd.py"


@pytest.fixture
def flags(voc, tmp_path):
    voc.names("test").write_text("c\n")  # an image without objects
    prepare_dataset("voc_folder", data_dir=tmp_path / "prepared", source=voc.root)
    return (
        f"--config={CONFIG}",
        f"--config.data.source={voc.root}",
        f"--config.data.data_dir={tmp_path / 'prepared'}",
        "--config.data.shorter_side=24",
        "--config.data.longer_side=30",
    )


def test_tables_and_pictures(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["anchors", *flags]) == 0
    printed = capsys.readouterr().out
    assert "train: 5 images, 6 objects, 1 ignore regions" in printed
    assert re.search(r"^32 x 32 +5 +16 +2 x 2 +36 +3\d$", printed, re.MULTILINE)
    for picture in ("anchors.png", "coverage.png"):
        path = pathlib.Path("runs", "anchors", "bccd", picture)
        assert str(path) in printed
        assert cv2.imread(str(path)) is not None
    # The suggestion can be pasted as it stands, and is then found to fit as well as it says.
    (flag,) = re.findall(r'^"(--config\.rpn\.anchors\.sizes=.*)"$', printed, re.MULTILINE)
    assert apply_overrides(default_config(), [flag]).rpn.anchors.sizes[0] < 24
    (suggested,) = re.findall(r"^centred, suggested +(.*?) +-$", printed, re.MULTILINE)
    assert main(["anchors", *flags, flag, f"--out={tmp_path / 'again'}"]) == 0
    assert re.search(rf"^centred, config +{suggested} ", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "again" / "coverage.png").is_file()


def test_the_anchors_of_each_image_are_written_as_proposals(flags, tmp_path, capsys):
    file, config = tmp_path / "windows.npz", load_config(flags[0][9:], list(flags[1:]))
    assert main(["anchors", *flags, f"--write={file}"]) == 0
    assert capsys.readouterr().out.startswith("voc_folder train: ")
    dataset = open_split(config, "train")
    stored = read_proposals(file, dataset.images(), 10_000, "train", dataset.pixels)
    # 9 anchors at each position of a grid of 16 pixels that is not in the padding of the canvas.
    sizes = [
        resized_hw(image.height, image.width, shorter_side=24, longer_side=30)
        for image in dataset.images()
    ]
    grids = [sum(y <= h and x <= w for y in (8, 24) for x in (8, 24)) for h, w in sizes]
    assert np.diff(stored.starts).tolist() == [9 * positions for positions in grids]
    assert {2, 4} == set(grids)
    record = dataset[0]
    boxes, scores = stored.of(0)
    assert (scores == 1).all()
    assert (boxes >= 0).all()
    assert (boxes <= np.array([[record.width, record.height] * 2])).all()
    # The largest anchors cover the whole image, to which they are clipped.
    assert [0, 0, record.width, record.height] in boxes.tolist()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--split=test", "split 'test' has no objects (1 images, 0 ignore regions)"),
        ("--split=val", "there is no split 'val'; there are: "),
        ("--config.data.data_dir=nowhere", "rpn-jax prepare"),
        ("--config.rpn.anchors.sizes=(0.0,)", "config.rpn.anchors.sizes=(0.0,): give numbers"),
        ("--write=windows.json", "--write=windows.json: give a file that ends in .npz"),
        ("--config.rpn.anchors.rounding=up", "config.rpn.anchors.rounding=up: give none,"),
    ],
)
def test_bad_input_is_one_clear_line(flags, capsys, flag, message):
    assert main(["anchors", *flags, flag]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
