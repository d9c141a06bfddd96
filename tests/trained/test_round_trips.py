"""The boxes of each format, prepared and written as detections, are those of its files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from exports import BOX, Export
from pycocotools.coco import COCO

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.data.proposals import read_proposals
from rpn_jax.runs.config import default_config
from rpn_jax.trained.detect import write_detections
from rpn_jax.training.predict import PredictedImage, Predictor

CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}]


def coco(export):
    export.image("images/a.jpg", "images/b.jpg")
    export.coco("annotations/train.json", ["a.jpg", "b.jpg"], CATEGORIES, of=90)
    return {"category_ids": (7, 90)}


def voc(export):
    export.image("JPEGImages/a.jpg", "JPEGImages/b.jpg")
    x1, y1, x2, y2 = BOX
    for name in ("a", "b"):
        export.voc(f"Annotations/{name}.xml", (x1 + 1, y1 + 1, x2, y2))
    export.file("ImageSets/Main/train.txt").write_text("a\nb\n")
    return {}


def yolo(export):
    export.image("images/a.jpg", "images/b.jpg")
    export.file("data.yaml").write_text("path: .\ntrain: images\nnames: [cat, dog]\n")
    for name in ("a", "b"):
        export.yolo(f"labels/{name}.txt", label=1)
    return {"category_ids": (0, 1)}


@pytest.fixture
def finds_the_annotated(monkeypatch):
    """Has `detect` find what is annotated; returns where to put the dataset."""
    place = SimpleNamespace(dataset=None)

    class Finds(Predictor):
        def __init__(self, config, detector, variables):
            pass

        def predict(self, sources, proposals=None):
            for i, pixels in enumerate(sources):
                record = place.dataset[i]
                scores = np.full(len(record.boxes), 0.75, np.float32)
                yield PredictedImage(i, pixels, record.boxes, scores, record.labels)

    monkeypatch.setattr("rpn_jax.trained.detect.Predictor", Finds)
    monkeypatch.setattr("rpn_jax.trained.detect.load_trained", lambda *_: (None, None, 1))
    return place


@pytest.mark.parametrize(
    ("kind", "write"), [("coco_json", coco), ("voc_folder", voc), ("yolo", yolo)]
)
def test_boxes_come_back(kind, write, tmp_path, finds_the_annotated):
    export = Export(tmp_path / "export")
    ids = write(export)
    data = {"data_dir": str(tmp_path / "prepared"), "source": str(export.root)}
    prepare_dataset(kind, **data)
    dataset = finds_the_annotated.dataset = open_dataset(kind, "train", **data)
    config = default_config("faster_rcnn")
    config.data.update(dataset=kind, **data)
    config.box.class_names = tuple(dataset.class_names)
    config.box.category_ids = tuple(dataset.category_ids)
    assert ids.get("category_ids", config.box.category_ids) == config.box.category_ids
    assert not write_detections(config, tmp_path, [], tmp_path / "out", split="train")

    file = tmp_path / "out/detections.json"
    rows = json.loads(file.read_text())
    x1, y1, x2, y2 = BOX
    assert len(rows) == 2
    for row in rows:
        np.testing.assert_allclose(row["bbox"], [x1, y1, x2 - x1, y2 - y1], rtol=0, atol=0.01)
        assert row["category"] == "dog"
    # As proposals, which a Fast R-CNN is trained on.
    stored = read_proposals(file, dataset.images(), 10)
    for i in range(2):
        np.testing.assert_allclose(stored.of(i)[0], [BOX], rtol=0, atol=0.01)
    if kind == "coco_json":
        truth = COCO(export.root / "annotations/train.json")
        results = truth.loadRes(str(file))
        assert results.getImgIds() == truth.getImgIds()
        for ours, theirs in zip(
            *(each.dataset["annotations"] for each in (results, truth)), strict=True
        ):
            assert ours["image_id"] == theirs["image_id"]
            assert ours["category_id"] == theirs["category_id"] == 90
            np.testing.assert_allclose(ours["bbox"], theirs["bbox"], rtol=0, atol=0.01)
