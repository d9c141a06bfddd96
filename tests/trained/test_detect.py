"""What `propose` and `detect` write, and the names of the files."""

import pathlib
import shutil
import sys

import numpy as np
import pycocotools.mask
import pytest
from folders import picture

import rpn_jax
from rpn_jax.data.datasets.yolo import read_yolo
from rpn_jax.data.masks import Masks, encode
from rpn_jax.errors import UserError
from rpn_jax.evaluation.masks import paste_all, paste_mask
from rpn_jax.files import write_npz
from rpn_jax.runs.config import default_config
from rpn_jax.trained.detect import detection_rows, output_names, write_detections
from rpn_jax.training.predict import PredictedImage, Predictor, read_pixels


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a.jpg", "y/b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/a.jpg", "b.jpg"], ["x_a", "y_a", "b"]),
        (["x/a.jpg", "x/a.png"], ["x_a.jpg", "x_a.png"]),
        (["a.jpg", "A.jpg"], ["a_1", "A_2"]),
        (["/data/in/x/a.jpg", "/data/in/y/a.jpg", "/data/in/b.jpg"], ["in_x_a", "in_y_a", "b"]),
        (["/x/a.jpg", "/y/a.jpg"], ["x_a", "y_a"]),
        (["../x/a.jpg", "y/a.jpg"], ["x_a", "y_a"]),
        (["/x/a.jpg", "y/a.jpg"], ["x_a", "y_a"]),
        ([f"{'x' * 240}/a.jpg", "y/a.jpg"], ["a_1", "y_a"]),
        (["x/a.jpg", "y/a.jpg", "x_a.jpg"], ["a_1", "y_a", "x_a_3"]),
    ],
)
def test_no_two_images_share_a_name(paths, names):
    found = output_names([pathlib.Path(path) for path in paths])
    assert found == names


def test_a_video_is_given_to_python_as_its_frames():
    with pytest.raises(UserError, match="^clip.MP4: a video; give its frames, an iterator of arra"):
        read_pixels("clip.MP4", "image")


def test_masks_are_written_as_coco_has_them():
    boxes, probabilities = np.float32([[3, 4, 19, 14]]), np.full((1, 4, 4), 0.9, np.float32)
    masks = paste_all(probabilities, boxes, (20, 30), "continuous", 0.5)
    scores, labels = np.float32([0.75]), np.array([1])
    pixels, masks = np.zeros((20, 30, 3), np.uint8), Masks(masks, 20, 30)
    image = PredictedImage(0, pixels, boxes, scores, labels, masks=masks)
    (row,) = detection_rows(7, image, (1, 90), ("cat", "dog"))
    pasted = paste_mask(probabilities[0], boxes[0], 20, 30)
    assert row == {
        "image_id": 7,
        "category_id": 90,
        "bbox": [3.0, 4.0, 16.0, 10.0],
        "score": 0.75,
        "category": "dog",
        "segmentation": {"size": [20, 30], "counts": encode(pasted).decode()},
    }
    (row,) = detection_rows(7, image._replace(masks=None), (1, 90), ("cat", "dog"))
    assert "segmentation" not in row


def test_masks_in_an_npz_are_those_of_pycocotools(tmp_path):
    bitmaps = [np.zeros((20, 30), bool), np.tri(20, 30, dtype=bool), np.ones((20, 30), bool)]
    hw, other = (20, 30), np.tri(7, 5, dtype=bool)
    images = [Masks([encode(bitmap) for bitmap in bitmaps], *hw), Masks([], 9, 9)]
    images.append(Masks([encode(other)], 7, 5))
    arrays = [image.to_arrays() for image in images]
    joined = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    write_npz(tmp_path / "a.npz", **joined)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        pairs = zip(file["mask_sizes"], file["masks"], strict=True)
        for (size, counts), bitmap in zip(pairs, [*bitmaps, other], strict=True):
            found = pycocotools.mask.decode({"size": size, "counts": bytes(counts)})
            np.testing.assert_array_equal(found, bitmap)


def test_yolo_files_are_read_again_as_the_same_boxes(tmp_path, monkeypatch):
    boxes = np.float32([[0.3, 1 / 3, 77.77, 60], [10, 20, 30.01, 40.49]])
    labels, scores = np.array([1, 0]), np.float32([0.75, 0.5])

    class Finds(Predictor):
        def __init__(self, config, detector, variables):
            pass

        def predict(self, sources, proposals=None):
            for i, source in enumerate(sources):
                yield PredictedImage(
                    i,
                    read_pixels(source, "image"),
                    boxes[: 2 - i],
                    scores[: 2 - i],
                    labels[: 2 - i],
                )

    monkeypatch.setattr("rpn_jax.trained.detect.Predictor", Finds)
    monkeypatch.setattr("rpn_jax.trained.detect.load_trained", lambda *_: (None, None, 1))
    config = default_config("faster_rcnn")
    config.box.class_names = ("cat", "no: 'dog'")
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for path in paths:
        path.write_bytes(picture(path.stem, 64, 97))
    out = tmp_path / "out"
    assert not write_detections(config, tmp_path, paths, out, file_format="yolo")
    first = (out / "labels/a.txt").read_text().splitlines()[0].split()
    assert len(first) == 6
    assert (first[0], float(first[5])) == ("1", 0.75)
    (out / "images").mkdir()
    for path in paths:
        shutil.copy(path, out / "images")
    source = read_yolo(str(out))
    assert source.class_names == ("cat", "no: 'dog'")
    for i, read in enumerate(source.splits["train"]):
        np.testing.assert_allclose(read().boxes, boxes[: 2 - i], rtol=0, atol=0.01)
        assert read().labels.tolist() == labels[: 2 - i].tolist()


def found_objects():
    boxes, scores = np.float32([[3, 4, 19, 14]]), np.float32([0.75])
    return rpn_jax.Detected(boxes, scores, np.array([1]), ("dog",))


def test_without_supervision_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(
        UserError, match=r"^supervision is not installed; pip install 'rpn-jax\[sup"
    ):
        found_objects().to_supervision()


def test_supervision_has_the_same_objects():
    supervision = pytest.importorskip("supervision")
    found = found_objects()
    bitmap = np.tri(20, 30, dtype=bool)
    masks = Masks([encode(bitmap)], 20, 30)
    for each in (found, rpn_jax.Segmented(*found[:4], masks)):
        given = each.to_supervision()
        assert isinstance(given, supervision.Detections)
        np.testing.assert_array_equal(given.xyxy, found.boxes)
        assert given.confidence.tolist() == [0.75]
        assert given.class_id.tolist() == [1]
        assert given.data["class_name"].tolist() == ["dog"]
    np.testing.assert_array_equal(given.mask, [bitmap])
