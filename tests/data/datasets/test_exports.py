"""Folders as annotation tools export them are read as they are.

The files have what the exporters of these tools write: ids that begin at 0, attributes, paths of
the server, corners that count from 0.
"""

import pathlib
import textwrap

import numpy as np
import pytest
from exports import BOX, CATEGORIES, Export

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.data.datasets.coco_json import read_coco_json
from rpn_jax.data.datasets.voc_folder import read_voc_folder
from rpn_jax.data.datasets.yolo import read_yolo
from rpn_jax.errors import UserError
from rpn_jax.trained.yolo import yolo_rows
from rpn_jax.training.predict import PredictedImage


@pytest.fixture
def export(tmp_path):
    return Export(tmp_path / "export")


def read_coco(export, **options):
    """Returns the source and the names of the images of each split; boxes are those written."""
    return _checked(read_coco_json(str(export.root), **options), BOX)


def _checked(source, box):
    names = {}
    for split, readers in source.splits.items():
        for reader in readers:
            example = reader()
            np.testing.assert_allclose(example.boxes, [box], rtol=0, atol=0.01)
            names.setdefault(split, []).append(example.filename.rpartition("/export/")[2])
    return source, names


def test_coco_of_roboflow(export):
    roots = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    for split in ("train", "valid", "test"):
        export.image(f"{split}/a_jpg.rf.{split}.jpg")
        name = f"{split}/_annotations.coco.json"
        export.coco(name, [f"a_jpg.rf.{split}.jpg"], roots, of=2)
    export.file("README.roboflow.txt").write_text("animals")
    source, names = read_coco(export)
    assert names["valid"] == ["valid/a_jpg.rf.valid.jpg"]
    assert list(names) == ["test", "train", "valid"]
    # The root of the names is no class; one without annotations is; ids stay the data's own.
    assert source.class_names == ("cat", "dog")
    assert source.category_ids == (1, 2)
    assert 'category 0, "animals", is no class' in source.noted["train"][0].what


def test_a_supercategory_with_annotations_is_a_class(export):
    categories = [{"id": 0, "name": "animal"}, {"id": 1, "name": "dog", "supercategory": "animal"}]
    export.image("a.jpg")
    export.coco("boxes.json", ["a.jpg"], categories, of=0)
    assert read_coco(export)[0].class_names == ("animal", "dog")
    categories[1]["supercategory"] = "dog"  # as COCO's "person" of "person"
    export.coco("boxes.json", ["a.jpg"], categories, of=0)
    assert read_coco(export)[0].class_names == ("animal", "dog")


@pytest.mark.parametrize("place", ["images/default/", "images/", ""])
def test_coco_of_cvat(export, place):
    export.image(f"{place}a.jpg")
    attributes = {"occluded": False, "rotation": 0.0}
    name = "annotations/instances_default.json"
    export.coco(name, ["a.jpg"], [{**CATEGORIES[0], "supercategory": ""}], attributes=attributes)
    assert read_coco(export)[1] == {"default": [f"{place}a.jpg"]}


@pytest.mark.parametrize(
    "file_name",
    [
        "images/1a2b-a.jpg",
        "images\\1a2b-a.jpg",
        "../../label-studio/data/media/upload/1/1a2b-a.jpg",
        "upload/1/1a2b-a.jpg",
        "C:\\label-studio\\media\\upload\\1\\1a2b-a.jpg",
        "s3://pictures/1a2b-a.jpg",
    ],
)
def test_coco_of_label_studio(export, file_name):
    export.image("images/1a2b-a.jpg")
    export.coco("result.json", [file_name], ignore=0)
    source, names = read_coco(export)
    assert names == {"train": ["images/1a2b-a.jpg"]}
    moved = [finding.what for finding in source.noted["train"]]
    assert bool(moved) == (not file_name.startswith("images"))
    assert all("found by its last part" in what for what in moved)


def test_one_image_for_two_uploads_is_refused(export):
    export.image("images/a.jpg")
    export.coco("result.json", ["upload/1/a.jpg", "upload/2/a.jpg"])
    with pytest.raises(UserError, match=r"images share the file \"a.jpg\""):
        read_coco(export)


def test_an_image_that_is_nowhere_is_named_as_it_is_written(export):
    export.image("images/a.jpg")
    export.coco("result.json", ["upload/1/b.jpg"])
    with pytest.raises(UserError, match=r'file_name="upload/1/b.jpg" is not in .*images'):
        read_coco(export)


def test_coco_of_fiftyone(export):
    export.image("data/a.jpg")
    export.coco("labels.json", ["a.jpg"], [{**CATEGORIES[0], "supercategory": None}])
    assert read_coco(export)[1] == {"train": ["data/a.jpg"]}


@pytest.mark.parametrize(("json_name", "images"), [("labels", "data"), ("result", "images")])
def test_a_folder_of_each_split(export, json_name, images):
    for split in ("train", "test"):
        export.image(f"{split}/{images}/a.jpg")
        export.coco(f"{split}/{json_name}.json", ["data/a.jpg" if images == "data" else "a.jpg"])
    names = read_coco(export)[1]
    assert names == {split: [f"{split}/{images}/a.jpg"] for split in ("test", "train")}


def test_two_files_without_splits_are_named(export):
    for name in ("first.json", "second.json"):
        export.image("a.jpg")
        export.coco(name, ["a.jpg"])
    with pytest.raises(UserError, match=r"holds first.json, second.json; which .*options.splits="):
        read_coco(export)


def test_coco_from_prepare_to_prepared(export, tmp_path):
    export.image("data/a.jpg")
    export.coco("labels.json", ["a.jpg"])
    place = {"data_dir": tmp_path / "prepared", "source": export.root}
    prepare_dataset("coco_json", **place)
    train = open_dataset("coco_json", "train", **place)
    np.testing.assert_allclose(train[0].boxes, [BOX], rtol=0, atol=0.01)
    assert prepare_dataset("coco_json", **place).already_prepared


def read_voc(export, box=BOX, **options):
    return _checked(read_voc_folder(str(export.root), **options), box)


@pytest.mark.parametrize("name", ["a", "first/a"])
def test_voc_of_cvat(export, name):
    export.image(f"JPEGImages/{name}.jpg")
    attributes = (
        "<attributes><attribute><name>color</name><value>x</value></attribute></attributes>"
    )
    export.voc(f"Annotations/{name}.xml", extra=f"<occluded>1</occluded>{attributes}")
    export.file("ImageSets/Main/default.txt").write_text(f"{name}\n")
    export.file("labelmap.txt").write_text("# label:color_rgb:parts:actions\ndog:1,2,3::\n")
    source, names = read_voc(export, first_pixel=0)
    assert names == {"default": [f"JPEGImages/{name}.jpg"]}
    assert source.class_names == ("dog",)
    x1, y1, x2, y2 = BOX
    read_voc(export, [x1 - 1, y1 - 1, x2, y2])  # VOC's own first pixel is 1


@pytest.mark.parametrize(("annotations", "images"), [("Annotations", "images"), ("labels", "data")])
def test_voc_of_label_studio_and_fiftyone(export, annotations, images):
    export.image(f"{images}/a.jpg", f"{images}/b.png")
    for name in ("a", "b"):
        export.voc(f"{annotations}/{name}.xml", (8, 8, 56, 48))
    names = read_voc(export, (8, 8, 56, 48), first_pixel=0)[1]
    assert names == {"train": [f"{images}/a.jpg", f"{images}/b.png"]}


@pytest.mark.parametrize(("annotations", "images"), [("labels", "data"), ("Annotations", "images")])
def test_voc_with_a_folder_of_each_split(export, annotations, images):
    for split in ("train", "test"):
        export.image(f"{split}/{images}/a.jpg", f"{split}/{images}/sub/b.png")
        for name in ("a", "sub/b"):
            export.voc(f"{split}/{annotations}/{name}.xml", (8, 8, 56, 48))
        export.file(f"__MACOSX/{split}/{annotations}/._a.xml").write_bytes(b"\0\5\x16\7")
    box = (8, 8, 56, 48)
    source, names = read_voc(export, box, first_pixel=0)
    assert names == {
        s: [f"{s}/{images}/a.jpg", f"{s}/{images}/sub/b.png"] for s in ("test", "train")
    }
    assert source.class_names == ("dog",)
    assert list(read_voc(export, box, first_pixel=0, splits="test")[1]) == ["test"]
    with pytest.raises(UserError, match=r"no annotations of val .*there: test, train"):
        read_voc(export, box, splits="val")
    (export.root / f"test/{images}/a.jpg").unlink()
    with pytest.raises(UserError, match=rf"test/{annotations}/a.xml: annotates an image that"):
        read_voc(export, box)
    # A stray file is named, not passed over.
    export.image(f"test/{images}/a.jpg")
    export.file("test/notes.xml").write_text("<notes/>")
    with pytest.raises(UserError, match=r"test/notes.xml: "):
        read_voc(export, box)


def test_voc_whose_splits_cannot_be_told(export):
    for split, annotations, images in (
        ("train", "labels", "data"),
        ("test", "Annotations", "data"),
    ):
        export.image(f"{split}/{images}/a.jpg")
        export.voc(f"{split}/{annotations}/a.xml")
    with pytest.raises(UserError, match=r"several names \(Annotations/data, labels/data\); rename"):
        read_voc(export)
    # Two data sets of VOC, each with its own lists, are not two splits.
    for split in ("train", "test"):
        export.file(f"{split}/ImageSets/Main/train.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"Annotations: no such folder"):
        read_voc(export)


def test_voc_of_roboflow(export):
    for split in ("train", "valid", "test"):
        export.image(f"{split}/a_jpg.rf.1.jpg")  # one name in all
        export.voc(f"{split}/a_jpg.rf.1.xml", (9, 9, 56, 48), "<occluded>0</occluded>")
    names = read_voc(export, (8, 8, 56, 48))[1]
    assert names == {s: [f"{s}/a_jpg.rf.1.jpg"] for s in ("test", "train", "valid")}
    assert list(read_voc(export, (8, 8, 56, 48), splits="valid")[1]) == ["valid"]
    with pytest.raises(UserError, match=r"no annotations of val .*there: test, train, valid"):
        read_voc(export, splits="val")


def test_voc_beside_the_images(export):
    export.image("a.jpg")
    export.voc("a.xml", (9, 9, 56, 48))
    assert read_voc(export, (8, 8, 56, 48))[1] == {"train": ["a.jpg"]}


def test_voc_of_which_something_is_missing(export):
    export.file("notes.txt").write_text("")
    with pytest.raises(UserError, match=r"Annotations: no such folder"):
        read_voc(export)
    export.file("Annotations/notes.txt").write_text("")
    with pytest.raises(UserError, match=r"JPEGImages: no such folder"):
        read_voc(export)
    export.image("images/a.jpg")
    with pytest.raises(UserError, match=r"Annotations: holds no annotations \(\*.xml\)"):
        read_voc(export)
    export.image("data/a.jpg")
    with pytest.raises(UserError, match=r"holds images, data; which has the images\?"):
        read_voc(export)


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        ({"data.yaml": "train: ../train/images\nnames: ['dog']\n"}, "train/labels"),
        (
            {
                "data.yaml": "path: ./\ntrain: train.txt\nnames:\n  0: dog\n",
                "train.txt": "images/train/a.jpg\n",
            },
            "labels/train",
        ),
        ({"classes.txt": "dog\n", "notes.json": "{}"}, "labels"),
        (
            {"dataset.yaml": "path: /home/me/x\ntrain: ./images/train/\nnames: [dog]\n"},
            "labels/train",
        ),
    ],
    ids=["Roboflow", "CVAT", "Label Studio", "FiftyOne"],
)
def test_yolo(export, files, labels):
    for name, text in files.items():
        export.file(name).write_text(text)
    image = f"{labels.replace('labels', 'images')}/a.jpg"
    export.image(image)
    export.yolo(f"{labels}/a.txt")
    source, names = _checked(read_yolo(str(export.root)), BOX)
    assert names == {"train": [image]}
    assert source.class_names == ("dog",)


class OfCvat:
    """CVAT's YOLO 1.1, with a photograph that has a box and one that has none."""

    def __init__(self, export, prefix="data/"):
        self.export, self.root = export, export.root
        self.write(
            "obj.data",
            f"""\
            classes = 2
            train = {prefix}train.txt
            valid = {prefix}valid.txt  # a comment
            names = {prefix}obj.names
            backup = backup/
            """,
        )
        self.write("obj.names", "dog\ncat\n")
        for split, names in (("train", ("a", "sub/b c")), ("valid", ("a",))):
            folder = f"obj_{split}_data"
            lines = [f"{prefix}{folder}/{name}.jpg\n" for name in names]
            self.write(f"{split}.txt", "".join(lines))
            for name in names:
                export.image(f"{folder}/{name}.jpg")
            export.yolo(f"{folder}/a.txt")
        self.write("obj_train_data/sub/b c.txt", "")

    def write(self, name, text):
        self.export.file(name).write_text(textwrap.dedent(text))


@pytest.mark.parametrize("prefix", ["data/", ""])
@pytest.mark.parametrize("above", ["", "images"])
def test_yolo_of_cvat(tmp_path, prefix, above):
    """A folder above that is called `images` changes nothing."""
    cvat = OfCvat(Export(tmp_path / above / "export"), prefix)
    source = read_yolo(str(cvat.root))
    examples = {split: [read() for read in readers] for split, readers in source.splits.items()}
    names = {
        split: [str(pathlib.Path(e.filename).relative_to(cvat.root)) for e in each]
        for split, each in examples.items()
    }
    assert names == {
        "train": ["obj_train_data/a.jpg", "obj_train_data/sub/b c.jpg"],
        "valid": ["obj_valid_data/a.jpg"],
    }
    assert source.class_names == ("dog", "cat")
    for example in (examples["train"][0], examples["valid"][0]):
        np.testing.assert_allclose(example.boxes, [BOX], rtol=0, atol=0.01)
    assert len(examples["train"][1].boxes) == 0
    assert read_yolo(str(cvat.root), splits="valid").splits.keys() == {"valid"}


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("obj.names", None, 'obj.data: names: "obj.names" is not in .*; put it there, with the'),
        ("obj.names", "\n", "obj.names: names no class; write the name of one in each line"),
        ("obj.names", "dog\n", 'obj.data: classes="2", but obj.names has 1; mend either'),
        ("obj.names", "dog\ndog\n", 'obj.names: names: two classes are called "dog"'),
        ("obj.data", "names = ../../names", 'obj.data: names: "../../names" is not in '),
        ("obj.data", "names = obj.names", "obj.data: names no split; give the list of its images"),
        ("obj.data", "my split = train.txt", "obj.data: 'my split' cannot be the name of a split"),
        ("train.txt", None, "obj.data: train: data/train.txt is not in "),
        (
            "train.txt",
            "data/obj_train_data/a.jpg\ndata/obj_train_data/gone.jpg\n",
            'obj.data: train: train.txt line 2: "obj_train_data/gone.jpg" is not in .*; were the '
            "images exported too",
        ),
        ("train.txt", "\n", "obj.data: train: no image; the split is empty"),
        ("obj_train_data/a.txt", "2 0.5 0.5 0.1 0.1", "line 1: class 2 is not in obj.data, whose"),
    ],
)
def test_yolo_of_cvat_that_is_damaged(export, file, text, what):
    cvat = OfCvat(export)
    if text is None:
        (cvat.root / file).unlink()
    else:
        cvat.write(file, text)
    with pytest.raises(UserError, match=what) as raised:
        read_yolo(str(cvat.root))
    assert "\n" not in str(raised.value)


def test_yolo_of_cvat_from_prepare_to_prepared_and_out_again(export, tmp_path):
    cvat = OfCvat(export)
    place = {"data_dir": tmp_path / "prepared", "source": cvat.root}
    prepare_dataset("yolo", **place)
    train = open_dataset("yolo", "train", **place)
    np.testing.assert_allclose(train[0].boxes, [BOX], rtol=0, atol=0.01)
    assert prepare_dataset("yolo", **place).already_prepared
    # What is found is written as YOLO 1.1 has it, and read again.
    pixels, scores = np.zeros((64, 96, 3), np.uint8), np.float32([1])
    found = PredictedImage(0, pixels, train[0].boxes, scores, train[0].labels)
    cvat.write("obj_train_data/a.txt", yolo_rows(found))
    (box,) = read_yolo(str(cvat.root)).splits["train"][0]().boxes
    np.testing.assert_allclose(box, BOX, rtol=0, atol=0.01)
    with pytest.raises(UserError, match="has changed since the dataset was prepared"):
        prepare_dataset("yolo", **place)


def test_classes_of_yolo_that_cannot_be_read(export):
    export.image("images/a.jpg")
    export.yolo("labels/a.txt")
    export.file("classes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"classes.txt: is not text in UTF-8"):
        read_yolo(str(export.root))
    export.file("classes.txt").write_text("\n")
    with pytest.raises(UserError, match=r"classes.txt: names no class"):
        read_yolo(str(export.root))


def test_what_macos_adds_to_an_archive_is_no_annotation(export):
    for split in ("train", "test"):
        export.image(f"{split}/a.jpg")
        export.voc(f"{split}/a.xml", (9, 9, 56, 48))
        export.coco(f"{split}/labels.json", ["a.jpg"])
        for name in (f"{split}/._a.xml", f"{split}/._labels.json", f"{split}/._a.jpg"):
            export.file(f"__MACOSX/{name}").write_bytes(b"\0\5\x16\7")
            export.file(name).write_bytes(b"\0\5\x16\7")
    assert list(read_voc(export, (8, 8, 56, 48))[1]) == ["test", "train"]
    assert list(read_coco(export)[1]) == ["test", "train"]
