"""A trained network in Python: five lines give boxes, and what is wrong is one line."""

import json
import os
import pickle
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from clips import red_then_brighter, write_clip
from training.small import small_config, small_mask_config

import rpn_jax
from rpn_jax.__main__ import main
from rpn_jax.data.datasets import prepare_dataset
from rpn_jax.data.masks import Masks, encode
from rpn_jax.data.videos import read_frames
from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.training.build import build_detector, build_network
from rpn_jax.training.predict import PredictedImage, Predictor
from rpn_jax.weights.model_file import write_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model file of random arrays."""
    config = small_config("--config.data.longer_side=48", "--config.batch_size=8")
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: np.float32(0.1 * rng.standard_normal(leaf.shape)),
        variable_shapes(build_network(config)),
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_model(path, config, variables, source="a test")
    return path


@pytest.fixture(scope="module")
def model(place):
    return rpn_jax.load(place)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((48, 48), (90, 60), (30, 200))]


def test_an_array_a_list_paths_and_a_folder_have_the_same_proposals(
    model, images, tmp_path, capsys, monkeypatch
):
    found = model.propose(images[1])
    assert capsys.readouterr().err == ""  # no progress bar for one
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.boxes.shape == (len(found.scores), 4)
    assert len(found.scores) > 0
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [60, 90, 60, 90]).all()
    assert found.boxes[:, 3].max() > 60, "in pixels of the image, not of the canvas"

    several = model.propose(images)
    np.testing.assert_array_equal(several[1].boxes, found.boxes)
    assert [one.path for one in several] == [None] * 3
    assert several[2].boxes[:, 2].max() > 60

    monkeypatch.setenv("HOME", str(tmp_path))
    files = [tmp_path / "photos" / "below" / name for name in ("a.png", "b.png", "c.png")]
    files[0].parent.mkdir(parents=True)
    for file, image in zip(files, images, strict=True):
        cv2.imwrite(str(file), image[:, :, ::-1])
    for of_folder in (
        model.propose("~/photos"),
        model.propose([files[0], str(files[1]), files[2]]),
    ):
        assert [one.path for one in of_folder] == files
        for one, again in zip(several, of_folder, strict=True):
            np.testing.assert_array_equal(one.boxes, again.boxes)
            np.testing.assert_array_equal(one.scores, again.scores)
    np.testing.assert_array_equal(model.propose("~/photos/below/b.png").boxes, found.boxes)
    assert model.propose([]) == []


def test_images_of_one_canvas_compile_once(model, images):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: "backend_compile" in event and compiled.append(event)
    )
    model.propose(images[0])
    del compiled[:]
    model.propose(images)
    model.propose(images[2])
    assert compiled == []


def test_a_model_can_be_pickled_after_its_use(model, images):
    found = model.propose(images[0])
    again = pickle.loads(pickle.dumps(model))
    assert repr(again) == repr(model)
    np.testing.assert_array_equal(again.propose(images[0]).boxes, found.boxes)


def test_frames_of_a_video(model, place, tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.avi", red_then_brighter(10, 48, 48))
    frames = [frame.pixels for frame in read_frames(clip)]
    found = model.propose(frame.pixels for frame in read_frames(clip))
    assert not isinstance(found, list)
    found = list(found)
    for one, other in zip(found, model.propose(frames), strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)

    out, photo = tmp_path / "out", tmp_path / "photo.png"
    cv2.imwrite(str(photo), frames[0])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    given = f"--weights={place}", str(clip), str(photo), str(broken), f"--out={out}"
    assert main(["propose", *given]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    assert line.startswith(f"error: 1 of 3 files: {broken}: is no video that can be read")
    rows = json.loads((out / "proposals.json").read_text())
    for number, expected in enumerate(found):
        of_frame = [row for row in rows if row.get("frame") == number]
        assert {row["image_id"] for row in of_frame} == {number + 2}  # behind the photograph
        assert {row["file_name"] for row in of_frame} == {str(clip)}
        np.testing.assert_allclose([row["seconds"] for row in of_frame], number / 10)
        np.testing.assert_allclose([row["score"] for row in of_frame], expected.scores, atol=1e-5)
    assert {row["file_name"] for row in rows if row["image_id"] == 1} == {str(photo)}
    assert [path.name for path in (out / "videos").iterdir()] == ["clip.mp4"]
    drawn = list(read_frames(out / "videos" / "clip.mp4"))
    assert [frame.seconds for frame in drawn] == [number / 10 for number in range(10)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"image: an array of shape \(8, 8\) and type uint8; give"),
        (np.zeros((8, 8), np.uint8), r"of PIL's other modes image\.convert\('RGB'\)$"),
        (np.zeros((8, 8, 3), np.float32), "image: .* type float32; give"),
        (np.zeros((0, 8, 3), np.uint8), "image: .*at least a pixel"),
        ([np.zeros((8, 8, 4), np.uint8)], r"images\[0\]: an array of shape \(8, 8, 4\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "or a list of such arrays"),
        ("nowhere.jpg", "nowhere.jpg: cannot be read"),
    ],
)
def test_what_is_no_image_is_named_in_a_line(model, given, message):
    with pytest.raises(UserError, match=message):
        model.propose(given)


def test_an_iterator_of_paths_keeps_them_and_an_unknown_part_is_refused(model, images, tmp_path):
    file = tmp_path / "a.png"
    cv2.imwrite(str(file), images[0])
    found = model.propose(iter([file, images[0], str(file)]))
    assert [one.path for one in found] == [file, None, file]
    for without in ("NMS", ("nms", "rank")):
        with pytest.raises(UserError, match="^without='.*: give parts of nms, ranking, regression"):
            model.evaluate("test", without=without)


def test_folders_without_images_and_places_without_a_network(model, place, tmp_path):
    with pytest.raises(UserError, match="no images are in it or below; give a folder that"):
        model.propose(tmp_path)
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(UserError, match="x.jpg: not a regular file"):
        model.propose(tmp_path)
    with pytest.raises(UserError, match="no run was begun there"):
        rpn_jax.load(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such run's folder or model file"):
        rpn_jax.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="step=3: a model file holds one step"):
        rpn_jax.load(place, step=3)
    with pytest.raises(UserError, match="settings='tset'"):
        rpn_jax.load(place, settings="tset")


def test_it_is_saved_exported_and_measured(model, images, voc, tmp_path):
    model.save(tmp_path / "again.safetensors")
    again = rpn_jax.load(tmp_path / "again.safetensors")
    np.testing.assert_array_equal(model.propose(images[0]).boxes, again.propose(images[0]).boxes)
    model.export(tmp_path / "model.jax", (64, 64), platforms=["cpu"])
    with pytest.raises(UserError, match="^path=.*/x: cannot be written .*model.jax is no folder"):
        model.export(tmp_path / "model.jax" / "x", (64, 64))
    function = jax.export.deserialize((tmp_path / "model.jax").read_bytes())
    canvas = np.zeros((1, 64, 64, 3), np.uint8)
    canvas[0, :48, :48] = images[0]
    exported = function.call(canvas, np.float32([[48, 48]]))
    valid = np.asarray(exported["valid"][0])
    np.testing.assert_allclose(
        exported["boxes"][0][valid], model.propose(images[0]).boxes, rtol=1e-4, atol=1e-3
    )

    prepare_dataset("voc_folder", data_dir=tmp_path / "data", source=voc.root)
    before = sorted(tmp_path.rglob("*"))
    figures = model.evaluate(
        "train", dataset="voc_folder", source=voc.root, data_dir=tmp_path / "data"
    )
    assert 0 <= figures.scalars["AR@10"] <= 1
    assert sorted(tmp_path.rglob("*")) == before, "it writes nothing"
    with pytest.raises(UserError, match="split"):
        model.evaluate("val", dataset="voc_folder", source=voc.root, data_dir=tmp_path / "data")


def test_masks_of_a_detector(images, monkeypatch):
    bitmap = np.zeros(images[0].shape[:2], bool)
    bitmap[3:9, 4:20] = True
    boxes, scores, labels = np.float32([[4, 3, 20, 9]]), np.float32([0.75]), np.array([1])

    class Finds(Predictor):
        def __init__(self, *_):
            pass

        def predict(self, sources, names=None, proposals=None):
            masks = Masks([encode(bitmap)], *bitmap.shape)
            yield PredictedImage(0, sources[0], boxes, scores, labels, masks=masks)

    monkeypatch.setattr("rpn_jax.trained.model.Predictor", Finds)
    config = small_mask_config()
    model = rpn_jax.Model(config, build_detector(config), {}, source="a test", step=None)
    found = model.detect(images[0])
    assert isinstance(found, rpn_jax.Segmented)
    *_, names, masks, path = found
    assert (names, path) == (("bright",), None)
    np.testing.assert_array_equal(masks[0], bitmap)
    np.testing.assert_array_equal(np.asarray(found.masks), [bitmap])
    (runs,) = masks.to_coco()
    assert runs["size"] == list(bitmap.shape)


def test_training_in_python(tmp_path, images):
    config = rpn_jax.configs.shapes()
    config.data.data_dir = str(tmp_path / "data")
    config.data.options = {"seed": 0, "image_size": 48, "num_train": 8, "num_test": 8}
    config.data.shorter_side = config.data.longer_side = 48
    config.model.backbone, config.model.norm = "zf", None
    config.model.output_stage = "c2"
    config.rpn.channels = 8
    config.optimizer.name = "sgd"
    config.steps = 1
    config.evaluation.every = 0
    assert "8" in str(rpn_jax.prepare(config))
    trained = rpn_jax.train(config, tmp_path / "run")
    assert trained.step == 1
    again = rpn_jax.load(tmp_path / "run")
    np.testing.assert_array_equal(trained.propose(images[0]).boxes, again.propose(images[0]).boxes)


def test_importing_the_package_brings_in_no_jax(tmp_path):
    code = """
import json, os, sys
before = dict(os.environ)
import rpn_jax
dir(rpn_jax), rpn_jax.UserError, dir(rpn_jax.configs)
heavy = {"jax", "flax", "numpy", "ml_collections", "cv2"} & sys.modules.keys()
print(json.dumps([sorted(heavy), dict(os.environ) == before]))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[], True]
