"""The catalogue's datasets, imitated: same features and directories, a few images."""

import io
import json

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from rpn_jax.data.datasets import open_dataset, prepare_dataset, tfds_catalogue
from rpn_jax.data.datasets.builders import quiet_tfds
from rpn_jax.data.datasets.tfds_catalogue import coco_example, download, find_directory, voc_example
from rpn_jax.errors import UserError

HEIGHT, WIDTH = 375, 500


def fraction(xmin, ymin, xmax, ymax):
    return tfds.features.BBox(ymin / HEIGHT, xmin / WIDTH, ymax / HEIGHT, xmax / WIDTH)


class Voc(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("5.0.0")
    url_infos = None

    def _info(self):
        objects = {
            "label": tfds.features.ClassLabel(names=["boat", "bus"]),
            "bbox": tfds.features.BBoxFeature(),
            "is_difficult": np.bool_,
        }
        features = {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(objects),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(3)), "test": self._generate_examples([7])}

    def _generate_examples(self, numbers):
        for i in numbers:
            objects = [
                {"label": 1, "bbox": fraction(3, 5, 407, 233), "is_difficult": False},
                {"label": 0, "bbox": fraction(1, 1, WIDTH, HEIGHT), "is_difficult": True},
            ]
            png = cv2.imencode(".png", np.full((HEIGHT, WIDTH, 3), i, np.uint8))[1]
            image = io.BytesIO(png.tobytes())
            yield i, {"image": image, "image/filename": f"{i:06d}.jpg", "objects": objects[: i + 1]}


@pytest.fixture
def voc_2007(tmp_path):
    config = tfds.core.BuilderConfig(name="2007", version=Voc.VERSION)
    with quiet_tfds():
        Voc(data_dir=tmp_path, config=config).download_and_prepare(file_format="array_record")
    return tmp_path


def test_voc_boxes_come_out_as_from_the_folder():
    # 500 and 375 have no exact fractions in float32: 407/500*500 is not 407 without rounding.
    box = fraction(3, 5, 407, 233)
    features = {
        "image": b"bytes",
        "image/filename": b"2008_000032.jpg",
        "objects": {
            "bbox": np.array([[box.ymin, box.xmin, box.ymax, box.xmax]], np.float32),
            "label": np.array([14]),
            "is_difficult": np.array([True]),
        },
    }
    example = voc_example(features, HEIGHT, WIDTH)
    np.testing.assert_array_equal(example.boxes, [[2, 4, 407, 233]])
    assert example.ignore.tolist() == [True]
    assert example.labels.tolist() == [14]
    assert example.image_id == 2008000032
    assert example.image == b"bytes"


def test_coco_keeps_crowds_areas_and_ids():
    features = {
        "image": b"",
        "image/filename": b"000000000139.jpg",
        "image/id": 139,
        "objects": {
            "bbox": np.array([[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]], np.float32),
            "label": np.array([3, 4]),
            "is_crowd": np.array([False, True]),
            "area": np.array([77, 99]),
        },
    }
    example = coco_example(features, 100, 200)
    np.testing.assert_array_equal(example.boxes, [[40, 10, 120, 50], [0, 0, 200, 100]])
    assert example.ignore.tolist() == [False, True]
    assert example.areas.tolist() == [77, 99]
    assert example.image_id == 139


def test_an_image_without_objects():
    features = {
        "image": b"",
        "image/filename": b"000001.jpg",
        "objects": {"bbox": np.zeros((0, 4)), "label": np.zeros(0), "is_difficult": np.zeros(0)},
    }
    assert voc_example(features, 10, 10).boxes.shape == (0, 4)


def test_a_dataset_of_tfds_is_opened_by_its_name(voc_2007):
    dataset = open_dataset("voc/2007", "train", data_dir=voc_2007)
    assert len(dataset) == 3
    assert dataset.class_names == ("boat", "bus")
    assert (dataset.heights == HEIGHT).all()
    by_name = {dataset[i].filename: dataset[i] for i in range(3)}
    np.testing.assert_array_equal(by_name["000000.jpg"].boxes, [[2, 4, 407, 233]])
    np.testing.assert_array_equal(
        by_name["000002.jpg"].boxes, [[2, 4, 407, 233], [0, 0, WIDTH, HEIGHT]]
    )
    np.testing.assert_array_equal(by_name["000002.jpg"].ignore, [False, True])
    assert cv2.imdecode(np.frombuffer(by_name["000001.jpg"].image_bytes, np.uint8), 1).max() == 1


def test_it_is_indexed_once(voc_2007, capfd):
    first = open_dataset("voc/2007", "train", data_dir=voc_2007)
    assert "voc/2007 train" in capfd.readouterr().err
    again = open_dataset("voc/2007", "train", data_dir=voc_2007)
    assert capfd.readouterr().err == ""
    assert first.fingerprint == again.fingerprint
    report = prepare_dataset("voc/2007", data_dir=voc_2007)
    assert report.already_prepared
    assert report.splits["test"].objects == 1


def test_a_damaged_index_is_made_again(voc_2007):
    open_dataset("voc/2007", "train", data_dir=voc_2007)
    index = find_directory("voc/2007", voc_2007) / "rpn_jax_index.json"
    whole = index.read_text()
    for content in (whole[:30], "[]"):
        index.write_text(content)
        assert len(open_dataset("voc/2007", "train", data_dir=voc_2007)) == 3
        assert index.read_text() == whole


def test_damaged_records_are_not_removed_but_named(voc_2007):
    prepare_dataset("voc/2007", data_dir=voc_2007)
    (file,) = find_directory("voc/2007", voc_2007).glob("*test.array_record*")
    file.write_bytes(file.read_bytes()[:70_000])
    with pytest.raises(
        UserError, match=r"voc-test\.array_record.*: the dataset is damaged; remove"
    ):
        prepare_dataset("voc/2007", data_dir=voc_2007)


def test_what_tfds_takes_for_prepared_but_is_not_whole(voc_2007, monkeypatch):
    (find_directory("voc/2007", voc_2007) / "dataset_info.json").unlink()
    monkeypatch.setattr(tfds_catalogue, "download", lambda *_: None)  # it finds the folder there
    with pytest.raises(UserError, match=r"voc/2007: holds no dataset that is whole; remove it"):
        prepare_dataset("voc/2007", data_dir=voc_2007)


def test_records_without_random_access_are_refused(voc_2007):
    info = find_directory("voc/2007", voc_2007) / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps({**content, "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="prepared as tfrecord, which has no random access"):
        open_dataset("voc/2007", "train", data_dir=voc_2007)


def test_coco_has_its_own_ids_of_its_classes(tmp_path):
    content = {"splits": {}, "class_names": list(map(str, range(80)))}
    (tmp_path / "rpn_jax_index.json").write_text(json.dumps(content))
    ids = tfds_catalogue.index("coco/2017", tmp_path)[1]["category_ids"]
    # person, traffic light, stop sign, toothbrush in instances_val2017.json.
    assert [ids[i] for i in (0, 9, 11, 79)] == [1, 10, 13, 90]
    assert len(ids) == 80
    assert "category_ids" not in tfds_catalogue.index("voc/2007", tmp_path)[1]


def test_the_newest_version_is_taken(tmp_path):
    for version in ("4.0.0", "10.0.0", "5.0.0"):
        (tmp_path / "coco/2017" / version).mkdir(parents=True)
        (tmp_path / "coco/2017" / version / "dataset_info.json").write_text("{}")
    assert find_directory("coco/2017", tmp_path).name == "10.0.0"
    assert find_directory("voc/2012", tmp_path) is None


def test_preparing_without_tensorflow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rpn-jax\[tfds-prepare\]'"):
        download("voc/2007", tmp_path)


def test_what_was_not_prepared_says_how(tmp_path):
    with pytest.raises(UserError, match="voc/2012 with these options is not prepared"):
        open_dataset("voc/2012", "train", data_dir=tmp_path)
