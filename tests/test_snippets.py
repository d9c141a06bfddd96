"""The pieces of Python in the documents run, with a small network for the runs that they name.

`docs/paper.md` and `docs/extending.md` have tests of their own, and `rpn_jax.train` has many.
"""

import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from documents import ROOT, blocks
from folders import picture
from training.small import small_config, small_detector_config

import rpn_jax
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.training.build import build_network
from rpn_jax.weights.model_file import write_model

PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/python.md",
    "docs/detectors.md",
    "docs/evaluation.md",
)
SNIPPETS = [
    pytest.param(block.text, id=f"{page}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(ROOT / page, "python"))
    if "rpn_jax.load" in block.text
]
# The networks that a small one stands for, by whether they know classes.
DETECTORS = {"runs/mine": False, "runs/quickstart": False, "runs/detector": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An RPN and a detector of random arrays, with a prepared split `test`."""
    root = tmp_path_factory.mktemp("models")
    models = {}
    for has_classes, config_of in ((False, small_config), (True, small_detector_config)):
        config = config_of("--config.data.longer_side=48")
        config.evaluation.top_ns = (10, 100)
        config.data.dataset = "shapes"
        config.data.data_dir = str(root / "prepared")
        config.data.options = {"seed": 0, "image_size": 48, "num_train": 8, "num_test": 8}
        rpn_jax.prepare(config)
        shapes = variable_shapes(build_network(config))
        draw = np.random.default_rng(0).standard_normal
        variables = jax.tree.map(lambda leaf, d=draw: np.float32(0.1 * d(leaf.shape)), shapes)
        file = root / f"{has_classes}.safetensors"
        write_model(file, config, variables, source="a test")
        models[has_classes] = rpn_jax.load(file)
    return models


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_snippet_runs(text, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rpn_jax, "load", lambda place: models[DETECTORS[place]], raising=False)
    (tmp_path / "photo.jpg").write_bytes(picture("photo", 48, 48))
    assert cv2.imread("photo.jpg").shape == (48, 48, 3)
    exec(text, {"rpn_jax": rpn_jax})
    assert capsys.readouterr().out.strip()


def test_the_pieces_of_the_paper_take_plain_lists():
    """As users run it: the types that the tests check want arrays."""
    (text,) = (b.text for b in blocks(ROOT / "docs/python.md", "python") if "rpn_jax.ops" in b.text)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.stdout == "[[0.33333334]]\n[1]\n", done.stderr
