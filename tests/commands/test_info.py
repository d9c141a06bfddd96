import pathlib

import pytest

from rpn_jax.__main__ import main

CONFIG = f"--config={pathlib.Path(__file__).parents[2] / 'configs' / 'shapes.py'}"


@pytest.mark.compiles
def test_tables_of_a_changed_config(capsys):
    flags = "--image_size=64x96", "--config.model.stem=small"
    assert main(["info", CONFIG, *flags]) == 0
    text = capsys.readouterr().out
    assert text.startswith("resnet18 on an image of 64 x 96 pixels")
    assert "backbone/c3          16 x 24 x 128       4 " in text
    assert "16 x 24  15    5760" in text


@pytest.mark.parametrize("size", ["600", "0x10", "-6x10", "axb", "1x2x3", "6 x 9", "", "1x1e3"])
def test_a_bad_image_size(size, capsys):
    assert main(["info", CONFIG, f"--image_size={size}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: --image_size={size}: give height x width in pixels")
    assert error.count("\n") == 1
