import re

import pytest
from training.small import PYRAMID, small_config, small_detector_config

from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.trained.describe import describe


def cells(text: str, first: str) -> list[str]:
    """The cells of the one row that begins with `first`."""
    (line,) = (line for line in text.splitlines() if re.match(rf"{re.escape(first)}  ", line))
    return re.split(r" {2,}", line)


def paper(*overrides: str):
    return apply_overrides(default_config(), ["--config.model.frozen_stages=2", *overrides])


def test_the_papers_network_on_its_image():
    caffe = "--config.rpn.objectness=softmax", "--config.rpn.anchors.rounding=caffe"
    text = describe(paper(*caffe), (600, 1000))
    assert text.startswith("vgg16 on an image of 600 x 1000 pixels (height x width; as given)")
    assert "multiply-adds x 2" in text
    assert cells(text, "backbone/c5")[1:4] == ["37 x 62 x 512", "16", "196"]
    assert cells(text, "rpn/conv")[1:4] == ["37 x 62 x 512", "16", "228"]
    assert [cells(text, f"backbone/c{i}")[-1] for i in (1, 2, 3)] == ["yes", "yes", "no"]
    # conv1_1: 2 * 600 * 1000 * 3 * 3 * 3 * 64, conv1_2 the same of 64 channels.
    assert cells(text, "backbone/c1")[-2] == f"{1.2e6 * 9 * (3 + 64) * 64 / 1e9:.3f}"
    # VGG-16's convolutions have 14,714,688; the head (512 * 9 + 1) * 512 + (512 + 1) * 54.
    frozen = 38_720 + 221_440
    assert cells(text, "total")[1] == f"{14_714_688 + 2_359_808 + 27_702:,}"
    assert cells(text, "total")[-1] == f"{frozen:,}"
    # 37 * 62 * 9 anchors; py-faster-rcnn counts 8151 inside.
    assert cells(text, "0") == ["0", "16", "37 x 62", "9", "20646", "8151"]
    ours = ["512 x (4 + 2) x 9", "27,648", "2.8e4"]
    assert cells(text, "this network")[1:] == ours
    assert cells(text, "the paper's RPN")[1:] == ours
    assert cells(text, "MultiBox")[1:] == ["1536 x (4 + 1) x 800", "6,144,000", "6.1e6"]
    assert "with 2 scores (softmax)" in text


def test_output_layers_of_other_heads_are_counted_from_them():
    text = describe(small_config(), (48, 64))
    # 16 channels; 2 sizes x 3 ratios; a sigmoid has 1 score.
    assert cells(text, "this network")[1:] == ["16 x (4 + 1) x 6", "480", "4.8e2"]
    assert "with 1 score (sigmoid)" in text
    assert "sizes (square root of the area, pixels): 12 24\n" in text
    assert "aspect ratios (width / height): 0.5 1 2\n" in text


@pytest.mark.parametrize(
    ("shorter", "longer", "image"),
    [(600, 1000, "600 x 800"), (128, 128, "128 x 128"), (100, 1000, "100 x 133")],
)
def test_the_image_is_a_landscape_of_the_configs_size(shorter, longer, image):
    sides = (f"--config.data.shorter_side={shorter}", f"--config.data.longer_side={longer}")
    assert (
        f" {image} pixels (height x width; shorter_side by 4/3"
        in describe(small_config(*sides)).splitlines()[0]
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.data.shorter_side=8"], "8 x 11 pixels is too small for a network of stride 16"),
        (
            ["--config.rpn.anchors.sizes=(-1.0,)"],
            "config.rpn.anchors.sizes=.*: give numbers above 0",
        ),
        (["--config.rpn.anchors.sizes=()"], "config.rpn.anchors.sizes=.*: give numbers above 0"),
        (["--config.model.backbone=vgg"], "config.model.backbone: 'vgg' is unknown"),
    ],
)
def test_what_cannot_be_described_is_a_user_error(overrides, message):
    with pytest.raises(UserError, match=message):
        describe(paper(*overrides))


def test_levels_share_the_heads_parameters():
    text = describe(small_config(*PYRAMID), (61, 75))
    assert text.startswith("resnet18 with fpn on an image of 61 x 75 pixels")
    convolutions = [line.split() for line in text.splitlines() if line.startswith("rpn/conv")]
    # 3x3 from 8 channels to 16, with biases: 9 * 8 * 16 + 16.
    assert [line[-3] for line in convolutions] == ["1,168", "0", "0", "0", "0"]
    # 1x1 from 64, 128, 256 and 512 channels to 8, and 3x3 from 8 to 8, with biases.
    assert cells(text, "neck/lateral4")[4] == f"{256 * 8 + 8:,}"
    assert cells(text, "neck/output2")[1:3] == ["16 x 19 x 8", "4"]
    assert cells(text, "neck/output2")[4] == str(9 * 8 * 8 + 8)
    # Rows and columns are halved and rounded up: 61, 31, 16, 8, 4, 2, 1.
    assert cells(text, "0")[1:5] == ["4", "16 x 19", "3", "912"]
    assert cells(text, "1")[1:5] == ["8", "8 x 10", "3", "240"]
    assert cells(text, "4")[1:5] == ["64", "1 x 2", "3", "6"]
    assert "sizes (square root of the area, pixels): 8 | 12 | 16 | 24 | 32, a level each\n" in text
    assert cells(text, "this network")[1:] == ["16 x (4 + 1) x 3", "240", "2.4e2"]


def test_strides_are_those_of_the_anchors():
    text = describe(small_config(*PYRAMID, "--config.rpn.anchors.rounding=torchvision"), (61, 75))
    # 61 // 16 and 75 // 19; 61 // 8 and 75 // 10; 61 // 1 and 75 // 2.
    assert cells(text, "0")[1] == "3"
    assert cells(text, "1")[1] == "7"
    assert cells(text, "4")[1] == "61 x 37"


def test_a_second_stage_has_its_layers():
    text = describe(small_detector_config("--config.box.channels=24"), (48, 64))
    # 3 x 3 cells of 64 channels, then 24, then three classes with background, and a box for each.
    assert cells(text, "box/fc6")[1:5] == ["1 x 1 x 24", "-", "-", f"{3 * 3 * 64 * 24 + 24:,}"]
    assert cells(text, "box/fc7")[4] == f"{24 * 24 + 24}"
    assert cells(text, "box/scores")[1:5] == ["1 x 1 x 3", "-", "-", f"{24 * 3 + 3}"]
    assert cells(text, "box/deltas")[4] == f"{24 * 12 + 12}"
    # Of the 20 proposals: 2 * 20 * 576 * 24.
    assert cells(text, "box/fc6")[5] == f"{2 * 20 * 576 * 24 / 1e9:.3f}"
    assert "GFLOP of the 20 of config.rpn.proposals.test.post_nms_top_n" in text
