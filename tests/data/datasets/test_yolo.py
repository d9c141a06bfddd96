"""Folders in the layout of YOLO: what they say, and the line about each fault."""

import re

import numpy as np
import pytest
from folders import picture

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.data.datasets.source import check_example
from rpn_jax.data.datasets.yolo import read_yolo
from rpn_jax.errors import UserError

YAML = "path: .\ntrain: images/train\nval: images/val\ntest:  # none\nnames: [dog, no]\n"
ROW = "0 0.5 0.5 0.5 0.25"  # of 40x20 pixels: 10, 7.5, 30, 12.5


class YoloFolder:
    def __init__(self, root):
        self.root = root
        self.write("data.yaml", YAML)
        for name in ("train/a", "train/b", "train/c", "val/d"):
            self.write(f"images/{name}.jpg", picture(name, 20, 40))
        self.write("labels/train/a.txt", f"{ROW}\n\n1 0.25 0.5 0.5 1\n")
        self.write("labels/train/b.txt", "")
        self.write("labels/val/d.txt", f"{ROW}\n")

    def write(self, name, content):
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def boxes(self, split="train", image=0):
        return read_yolo(str(self.root)).splits[split][image]().boxes.tolist()


@pytest.fixture
def yolo(tmp_path):
    return YoloFolder(tmp_path / "yolo")


def test_boxes_are_fractions_of_the_image(yolo, tmp_path):
    place = {"data_dir": tmp_path / "data", "source": yolo.root}
    prepare_dataset("yolo", **place)
    train = open_dataset("yolo", "train", **place)
    # 0.5·40 ± 0.25·40, 0.5·20 ± 0.125·20; 0.25·40 ± 0.25·40, 0.5·20 ± 0.5·20
    np.testing.assert_allclose(train[0].boxes, [[10, 7.5, 30, 12.5], [0, 0, 20, 20]], atol=1e-5)
    assert train[0].labels.tolist() == [0, 1]
    assert [len(train[i].boxes) for i in range(3)] == [2, 0, 0]  # an empty file, and none
    assert list(train.class_names) == ["dog", "no"]
    assert len(open_dataset("yolo", "val", **place)) == 1
    assert prepare_dataset("yolo", **place).already_prepared
    yolo.write("labels/val/d.txt", "1 0.5 0.5 0.5 0.25")
    with pytest.raises(UserError, match="has changed since the dataset was prepared"):
        prepare_dataset("yolo", **place)


def test_polygons_are_masks_and_boxes(yolo):
    yolo.write("labels/train/a.txt", f"1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n{ROW}")
    source = read_yolo(str(yolo.root))
    example = source.splits["train"][0]()
    assert source.has_masks
    assert example.boxes.tolist() == [[10, 5, 30, 15], [10, 7.5, 30, 12.5]]
    masks = check_example(example, skip_bad=False).example.masks
    assert masks[0]
    assert not masks[1]


@pytest.mark.parametrize(
    ("yaml", "moved"),
    [
        ("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['dog', 'no']", True),
        ("path: /gone/elsewhere\ntrain: ./images/train/\nnames: {1: no, 0: dog}", False),
        ("train: [images/train, images/val]\nnames:\n  0: dog\n  1: no", False),
        ("train: lists/train.txt\nnames: [dog, no]", False),
    ],
    ids=["roboflow", "fiftyone", "several", "list"],
)
def test_common_spellings_of_the_yaml_are_read(yolo, yaml, moved):
    yolo.write("data.yaml", yaml)
    yolo.write("lists/train.txt", "../images/train/a.jpg\nimages/val/d.jpg\n\n")
    if moved:
        for kind in ("images", "labels"):
            for split, folder in (("train", "train"), ("val", "valid")):
                (yolo.root / folder).mkdir(exist_ok=True)
                (yolo.root / kind / split).rename(yolo.root / folder / kind)
    assert yolo.boxes() == [[10, 7.5, 30, 12.5], [0, 0, 20, 20]]
    assert read_yolo(str(yolo.root)).class_names == ("dog", "no")


def test_a_score_at_the_end_of_a_row_is_noted(yolo):
    yolo.write("labels/train/a.txt", f"{ROW} 0.9")
    assert yolo.boxes() == [[10, 7.5, 30, 12.5]]
    (note,) = read_yolo(str(yolo.root)).noted["train"]
    assert "1 rows have a sixth number" in note.what


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("2 0.5 0.5 0.5 0.25", "class 2 is not in data.yaml, whose names are 0 to 1"),
        ("0.5 0.5 0.5 0.5 0.25", "class 0.5 is not in data.yaml"),
        ("-1 0.5 0.5 0.5 0.25", "class -1 is not"),
        ("0 0.5 12 0.5 0.25", "12 is not in [0, 1]; YOLO has fractions of the image's sides"),
        ("0 0.5 0.5 nan 0.25", '"nan" is no number'),
        ("0 0.5 0.5 0.5", "has 4 numbers; a box has 5 (class cx cy w h), a polygon 7, 9, 11"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "has 8 numbers"),
    ],
)
def test_a_bad_row_is_one_line(yolo, row, what):
    file = yolo.write("labels/train/a.txt", f"{ROW}\n{row}\n")
    with pytest.raises(UserError, match=re.escape(f"{file}: line 2: {what}")) as raised:
        read_yolo(str(yolo.root))
    assert "\n" not in str(raised.value)
    assert "--skip-bad" in str(raised.value)
    source = read_yolo(str(yolo.root), skip_bad=True)
    assert len(source.splits["train"][0]().boxes) == 1
    assert what in source.left_out["train"][0].what
    yolo.write("labels/train/a.txt", row)  # without any row it would pass for background
    with pytest.raises(UserError, match="line 1: "):
        read_yolo(str(yolo.root), skip_bad=True).splits["train"][0]()


@pytest.mark.parametrize(
    ("yaml", "what"),
    [
        ("train: images/train", "has no names; list the classes"),
        ("train: images/train\nnames: {1: dog, 2: cat}", "names: has 2 classes; number them 0 to"),
        ("train: images/train\nnames: [dog, dog]", 'names: two classes are called "dog"'),
        ("train: images/train\nnames: [[dog]]", "names: class 0: is no text, but list"),
        ("train: images/train\nnames: [dog]\nnc: 3", 'nc="3", but names has 1'),
        ("train: images/none\nnames: [dog]", "train: images/none is not in"),
        ("train: [images/none]\nnames: [dog]", "train: images/none is not in"),
        ("train: l.txt\nnames: [dog]", "train: l.txt line 1: "),
        ("train: labels/train\nnames: [dog]", "train: no image; the split is empty"),
        ("train: other\nnames: [dog]", "train: none of its 1 images has a label file, such as"),
        ("train: images/train\nnames: [dog]\nkpt_shape: [3, 2]", "kpt_shape: rows with keypoints"),
        ("names: [dog]", "names no split; give train, val or test"),
        ("names: [dog", "not readable as YAML"),
        ("just text", "has no names"),
    ],
)
def test_a_bad_yaml_is_one_line(yolo, yaml, what):
    file = yolo.write("data.yaml", yaml)
    yolo.write("l.txt", "gone.jpg\n")
    yolo.write("other/a.jpg", picture("a", 20, 40))
    with pytest.raises(UserError, match=re.escape(f"{file}: {what}")) as raised:
        read_yolo(str(yolo.root))
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_named(yolo, tmp_path):
    with pytest.raises(UserError, match=r"has no split dev; there are: train, val"):
        read_yolo(str(yolo.root), splits="dev")
    assert [*read_yolo(str(yolo.root), splits="val").splits] == ["val"]
    with pytest.raises(UserError, match="no such folder"):
        read_yolo(str(tmp_path / "none"))
    (yolo.root / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"has no data.yaml; give it one with train:"):
        read_yolo(str(yolo.root))
    yolo.write("dataset.yaml", YAML)  # as FiftyOne calls it
    assert yolo.boxes()


def test_images_outside_of_the_folder_want_an_option(yolo, tmp_path):
    (yolo.root / "images").rename(tmp_path / "images")
    (yolo.root / "labels").rename(tmp_path / "labels")
    yolo.write("data.yaml", "train: ../images/train\nnames: [dog, no]")
    with pytest.raises(UserError, match="leads out of the folder; the option outside=True"):
        read_yolo(str(yolo.root))
    source = read_yolo(str(yolo.root), outside=True)
    assert len(source.splits["train"][0]().boxes) == 2
