import shutil
import subprocess
import sys

import numpy as np
import pytest

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.errors import UserError


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "prepared"


def prepare_voc(voc, data_dir, **options):
    return prepare_dataset("voc_folder", data_dir=data_dir, source=voc.root, **options)


def open_voc(voc, data_dir, split="train", **options):
    return open_dataset("voc_folder", split, data_dir=data_dir, source=voc.root, **options)


def test_what_was_annotated_is_read_back(voc, data_dir):
    prepare_voc(voc, data_dir)
    dataset = open_voc(voc, data_dir)
    assert len(dataset) == 5
    np.testing.assert_array_equal(dataset.heights, [30, 40, 30, 32, 30])
    np.testing.assert_array_equal(dataset.widths, [40, 30, 40, 32, 40])
    np.testing.assert_array_equal(dataset.num_objects, [2, 1, 0, 3, 1])
    assert dataset.class_names == ("cat", "dog")
    record = dataset[0]
    assert record.image_bytes == voc.image("a").read_bytes()
    assert record.filename == str(voc.image("a"))
    assert (record.height, record.width) == (30, 40)
    np.testing.assert_array_equal(record.boxes, [[0, 0, 10, 20], [10, 4, 40, 30]])
    np.testing.assert_array_equal(record.labels, [0, 1])
    np.testing.assert_array_equal(record.ignore, [False, True])
    np.testing.assert_array_equal(record.areas, [200, 780])
    assert dataset[2].boxes.shape == (0, 4)
    assert dataset[-1].filename == str(voc.image("e"))
    with pytest.raises(IndexError):
        dataset[5]


def test_coco_keeps_its_ids_and_areas(coco, data_dir):
    prepare_dataset("coco_json", data_dir=data_dir, source=coco.root)
    dataset = open_dataset("coco_json", "val", data_dir=data_dir, source=coco.root)
    assert [dataset[i].image_id for i in range(2)] == [70, 50]
    np.testing.assert_array_equal(dataset[0].areas, [99.5, 1200])
    np.testing.assert_array_equal(dataset[0].ignore, [False, True])


def test_shapes_need_only_a_directory(data_dir):
    options = dict(image_size=48, num_train=6, num_test=2)
    report = prepare_dataset("shapes", data_dir=data_dir, **options)
    assert report.splits["train"].images == 6
    dataset = open_dataset("shapes", "test", data_dir=data_dir, **options)
    assert len(dataset) == 2
    assert len(dataset[0].boxes) == dataset.num_objects[0] >= 1


def test_the_fingerprint_follows_the_annotations_of_its_split(voc, data_dir, tmp_path):
    prepare_voc(voc, data_dir)
    before = open_voc(voc, data_dir).fingerprint
    assert before != open_voc(voc, data_dir, "test").fingerprint
    voc.annotation("e").write_text(voc.annotation("c").read_text())
    prepare_voc(voc, tmp_path / "again")
    assert open_voc(voc, tmp_path / "again").fingerprint != before
    assert (
        open_voc(voc, tmp_path / "again", "test").fingerprint
        == open_voc(voc, data_dir, "test").fingerprint
    )


def test_the_hash_of_the_images_follows_one_that_is_replaced(voc, data_dir, tmp_path):
    prepare_voc(voc, data_dir)
    before = open_voc(voc, data_dir)
    shutil.copy(voc.image("c"), voc.image("e"))
    prepare_voc(voc, tmp_path / "again")
    after = open_voc(voc, tmp_path / "again")
    assert after.fingerprint == before.fingerprint
    assert after.pixels != before.pixels


def test_the_report_and_the_silence(voc, data_dir, capfd):
    report = prepare_voc(voc, data_dir)
    out, err = capfd.readouterr()
    assert out == ""
    assert "voc_folder train" in err
    assert "Generating" not in err + out
    assert "WARNING" not in err
    train = report.splits["train"]
    assert (train.images, train.objects, train.ignored) == (5, 6, 1)
    assert train.per_class == [4, 2]
    assert report.directory.startswith(str(data_dir / "voc_folder" / "My_VOC-"))


def test_preparing_again_does_nothing_and_tells_the_same(voc, data_dir, capfd):
    first = prepare_voc(voc, data_dir)
    stamp = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    capfd.readouterr()
    again = prepare_voc(voc, data_dir)
    assert again.already_prepared
    assert again.splits == first.splits
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == stamp
    assert "image" not in capfd.readouterr().err


def test_changed_annotations_are_noticed(voc, data_dir):
    prepare_voc(voc, data_dir)
    voc.annotation("b").write_text(voc.annotation("c").read_text())
    with pytest.raises(UserError, match=r"b\.jpg: has changed since the dataset was prepared .*"):
        prepare_voc(voc, data_dir)


def test_the_source_may_be_gone_when_the_data_is_opened(voc, data_dir):
    prepare_voc(voc, data_dir)
    voc.root.rename(voc.root.with_name("moved"))
    assert len(open_voc(voc, data_dir)) == 5


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda voc: truncate(voc.image("b")), r"b\.jpg: .*truncated"),
        (lambda voc: voc.image("b").write_bytes(b""), r"b\.jpg: the image file is empty"),
        (lambda voc: voc.annotation("b").write_text("<annot"), r"b\.xml: not readable as XML"),
        (lambda voc: voc.image("b").unlink(), r"b\.xml: annotates an image"),
        (
            lambda voc: voc.image("b").write_bytes(voc.image("a").read_bytes()),
            r"b\.jpg: the annotation is for 30x40 pixels, the image has 40x30",
        ),
    ],
    ids=["truncated", "empty", "xml", "missing", "other image"],
)
def test_a_bad_file_ends_the_preparation_or_is_skipped_and_listed(voc, data_dir, break_it, match):
    break_it(voc)
    with pytest.raises(UserError, match=match):
        prepare_voc(voc, data_dir)
    with pytest.raises(UserError, match="not prepared"):
        open_voc(voc, data_dir)
    report = prepare_voc(voc, data_dir, skip_bad=True)
    assert len(report.splits["train"].skipped) == 1
    assert "b." in report.splits["train"].skipped[0].file
    assert report.splits["test"].skipped == []
    assert len(open_voc(voc, data_dir)) == 4


def test_boxes_that_are_clipped_or_dropped_are_listed_by_file(voc, data_dir):
    text = voc.annotation("d").read_text()
    voc.annotation("d").write_text(text.replace(">20<", ">99<").replace("xmax>12<", "xmax>9<"))
    report = prepare_voc(voc, data_dir, splits=["train"])
    assert [f.file for f in report.splits["train"].clipped] == [str(voc.annotation("d"))]
    assert [f.file for f in report.splits["train"].dropped] == [str(voc.annotation("d"))]
    assert "clipped:" in str(report)
    np.testing.assert_array_equal(
        open_voc(voc, data_dir, splits=["train"])[3].boxes, [[1, 2, 32, 31], [0, 0, 32, 32]]
    )


def test_a_split_without_a_usable_image_is_an_error(voc, data_dir):
    for name in "ad":
        truncate(voc.image(name))
    with pytest.raises(UserError, match="split test has no usable image"):
        prepare_voc(voc, data_dir, skip_bad=True)


KILLED = """
import os, sys
from rpn_jax.data.datasets import library, prepare_dataset, source
seen = []
def die_at_the_third(*arguments, real=source.check_boxes, **options):
    seen.append(1)
    if len(seen) == 3:
        os._exit(9)
    return real(*arguments, **options)
source.check_boxes = die_at_the_third
prepare_dataset("voc_folder", data_dir=sys.argv[1], source=sys.argv[2])
"""


def test_a_preparation_that_was_killed_leaves_nothing_that_opens(voc, data_dir):
    command = [sys.executable, "-c", KILLED, str(data_dir), str(voc.root)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 9
    with pytest.raises(UserError, match="not prepared"):
        open_voc(voc, data_dir)
    assert not prepare_voc(voc, data_dir).already_prepared
    assert len(open_voc(voc, data_dir)) == 5


def test_what_was_not_prepared_says_how(voc, data_dir):
    with pytest.raises(UserError, match=r"is not prepared there; run rpn-jax prepare"):
        open_voc(voc, data_dir)


def test_data_prepared_from_another_folder_is_not_taken(voc, coco, data_dir):
    prepare_voc(voc, data_dir)
    with pytest.raises(UserError, match=r"coco with these .* was prepared from .*My VOC\)"):
        open_dataset("voc_folder", "train", data_dir=data_dir, source=coco.root)


def test_an_unknown_split_lists_those_there_are(voc, data_dir):
    prepare_voc(voc, data_dir)
    with pytest.raises(UserError, match="there is no split 'val'; there are: test, train"):
        open_voc(voc, data_dir, "val")


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("imagenet", {}, "dataset 'imagenet' is not known; there are: shapes, voc_folder"),
        ("voc_folder", {}, "dataset voc_folder: needs `source`"),
        ("shapes", {"source": "x"}, "dataset shapes: takes no `source`"),
        ("shapes", {"size": 3}, "dataset shapes: no option size; it has: seed, image_size"),
        ("voc/2007", {"size": 3}, "dataset voc/2007: no option size; it has none"),
    ],
)
def test_arguments_that_make_no_sense(data_dir, name, arguments, match):
    for function in (prepare_dataset, lambda n, **a: open_dataset(n, "train", **a)):
        with pytest.raises(UserError, match=match):
            function(name, data_dir=data_dir, **arguments)


def test_a_data_dir_that_cannot_be_made(voc, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/data/\S*: cannot hold datasets"):
        prepare_voc(voc, tmp_path / "file" / "data")


def test_damaged_metadata_is_named(voc, data_dir):
    report = prepare_voc(voc, data_dir)
    with open(f"{report.directory}/metadata.json", "a") as file:
        file.write("}")
    with pytest.raises(UserError, match=r"metadata\.json: the prepared dataset is damaged"):
        open_voc(voc, data_dir)
