import json
import shutil

import numpy as np
import pytest

from rpn_jax.data.datasets.coco_json import read_coco_json
from rpn_jax.errors import UserError


def read(coco, **options):
    return [reader() for reader in read_coco_json(str(coco.root), **options).splits["val"]]


def test_boxes_areas_crowds_and_ids(coco):
    first, second = read(coco)
    assert (first.image_id, second.image_id) == (70, 50)
    assert first.filename == str(coco.image("p.jpg"))
    np.testing.assert_array_equal(first.boxes, [[2, 3, 12.5, 23], [0, 0, 40, 30]])
    np.testing.assert_array_equal(first.ignore, [False, True])
    np.testing.assert_array_equal(first.areas, [99.5, np.nan])
    np.testing.assert_array_equal(first.labels, [1, 0])  # ids 18 and 3, in the order of ids
    np.testing.assert_array_equal(second.boxes, [[1, 1, 6, 6]])
    assert second.declared_hw == (40, 30)
    assert read_coco_json(str(coco.root)).class_names == ("car", "dog")


def test_an_image_may_have_no_annotation(coco):
    coco.content["annotations"].pop()
    coco.write()
    assert read(coco)[1].boxes.shape == (0, 4)


def test_files_can_be_anywhere(coco):
    coco.file.rename(coco.root / "boxes.json")
    coco.image("").rename(coco.root / "pictures")
    source = read_coco_json(str(coco.root), splits={"mine": ("boxes.json", "pictures")})
    assert [reader().image_id for reader in source.splits["mine"]] == [70, 50]


def test_splits_can_be_chosen(coco):
    shutil.copy(coco.file, coco.file.with_name("instances_extra.json"))
    with pytest.raises(UserError, match="extra: no such folder, but it should hold the images"):
        read_coco_json(str(coco.root))
    assert list(read_coco_json(str(coco.root), splits=["val"]).splits) == ["val"]
    with pytest.raises(
        UserError, match=r"no COCO annotations of test .*; splits there: extra, val"
    ):
        read_coco_json(str(coco.root), splits=["test"])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_coco_json(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "not readable as JSON"),
        ("[]", "not a COCO instances file"),
        ('{"images": [], "annotations": []}', "not a COCO instances file"),
        ('{"images": 1, "annotations": [], "categories": []}', "not a COCO instances file"),
        ('{"images": [], "annotations": [], "categories": []}', "the split is empty"),
    ],
)
def test_an_unusable_file_is_named(coco, text, message):
    coco.file.write_text(text)
    with pytest.raises(UserError, match=rf"instances_val\.json: {message}"):
        read_coco_json(str(coco.root))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].pop("file_name"), "image 70: has no file_name"),
        (lambda c: c["images"][0].pop("id"), r"images\[0\]: has no id"),
        (lambda c: c["images"][0].update(file_name=7), "image 70: file_name=7 is no text"),
        (
            lambda c: c["images"][0].update(file_name="x.jpg"),
            r'image 70: file_name="x\.jpg" is not in .*val',
        ),
        (lambda c: c["images"].insert(0, None), r"images\[0\]: null is no object with fields"),
        (
            lambda c: c["images"][0].update(width="wide"),
            'image 70: width="wide" is no number',
        ),
    ],
)
def test_a_bad_image_is_an_error_or_a_reader_that_raises(coco, change, message):
    change(coco.content)
    coco.write()
    with pytest.raises(UserError, match=rf"instances_val\.json: {message}.*--skip-bad"):
        read_coco_json(str(coco.root))
    *good, bad = read_coco_json(str(coco.root), skip_bad=True).splits["val"]
    assert good[-1]().image_id == 50
    with pytest.raises(UserError, match=message):
        bad()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(image_id=7), "annotation 1: image_id=7 is of unknown image"),
        (dict(category_id=7), "annotation 1: category_id=7 is of unknown category"),
        (dict(category_id=None), "annotation 1: category_id=null"),
        (dict(bbox=None), "annotation 1: segmentation is missing, and so is bbox"),
        (dict(bbox=[1, 2, 3]), r"annotation 1: bbox=\[1, 2, 3\] is not \[x, y, width, height\]"),
        (dict(bbox={"x": 1}), r'annotation 1: bbox={"x": 1} is not'),
        (dict(bbox=["a", 0, 1, 1]), r'annotation 1: bbox=.*: "a" is no number'),
        (dict(bbox=[float("nan"), 0, 1, 1]), r"annotation 1: bbox=.*NaN is not a finite number"),
        (dict(bbox=[0.1, 0.2, 0.5, 0.25]), r"annotation 1: bbox=.* are fractions of 1"),
        (dict(iscrowd="maybe"), 'annotation 1: iscrowd="maybe" is neither 0 nor 1'),
        (dict(id=2), r"annotation 2: its id is given twice, first to annotations\[0\]"),
    ],
)
def test_a_bad_annotation_is_an_error_or_left_out(coco, change, message):
    coco.content["annotations"][0].update(change)
    coco.write()
    with pytest.raises(UserError, match=rf"instances_val\.json: {message}.*--skip-bad"):
        read_coco_json(str(coco.root))
    source = read_coco_json(str(coco.root), skip_bad=True)
    assert [reader().image_id for reader in source.splits["val"]] == [70, 50]
    (finding,) = source.left_out["val"]
    assert finding.file == str(coco.file)
    assert len(source.splits["val"][0]().boxes) == 1


def test_an_image_none_of_whose_annotations_can_be_used_is_no_background(coco):
    coco.content["annotations"][2]["bbox"] = [1, 2]
    coco.write()
    first, second = read_coco_json(str(coco.root), skip_bad=True).splits["val"]
    assert first().image_id == 70
    with pytest.raises(UserError, match="image 50: none of its annotations can be used"):
        second()


@pytest.mark.parametrize("written", ["0", "false", False, 0, None, "no", ""])
def test_what_is_no_crowd(coco, written):
    coco.content["annotations"][0]["iscrowd"] = written
    coco.write()
    assert not read(coco)[0].ignore[0]


@pytest.mark.parametrize("written", ["1", "True", True, 1, "yes", 1.0])
def test_what_is_a_crowd(coco, written):
    coco.content["annotations"][0]["iscrowd"] = written
    coco.write()
    assert read(coco)[0].ignore[0]


def test_numbers_and_ids_may_be_written_as_text(coco):
    coco.content["images"][0].update(width="40", height="30", id="70")
    coco.content["annotations"][0].update(category_id="18", bbox=["2", "3", "10.5", "20"])
    coco.write()
    first = read(coco)[0]
    assert (first.image_id, first.declared_hw) == (70, (30, 40))
    np.testing.assert_array_equal(first.boxes[0], [2, 3, 12.5, 23])


def test_ids_that_are_names_are_kept(coco):
    for entry, name in zip(coco.content["images"], ("frame_0001", "frame_0002"), strict=True):
        for annotation in coco.content["annotations"]:
            if annotation["image_id"] == entry["id"]:
                annotation["image_id"] = name
        entry["id"] = name
    coco.write()
    first, second = read(coco)
    assert (first.image_id, second.image_id) == (0, 1)
    assert (first.original_id, second.original_id) == ("frame_0001", "frame_0002")
    assert len(first.boxes) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(id=50), r"images share the id 50: 50 \(p\.jpg\) and 50 \(q\.jpg\)"),
        (dict(file_name="q.jpg"), r'images share the file "q\.jpg": 70 .* and 50'),
    ],
)
def test_images_that_share_an_id_or_a_file_are_both_named(coco, change, message):
    coco.content["images"][0].update(change)
    for annotation in coco.content["annotations"]:
        annotation["image_id"] = 50
    coco.write()
    with pytest.raises(UserError, match=message):
        read_coco_json(str(coco.root))


def test_two_categories_of_one_id_are_both_named(coco):
    coco.content["categories"].append({"id": 3, "name": "bus"})
    coco.write()
    with pytest.raises(UserError, match='two categories have the id 3, "car" and "bus"'):
        read_coco_json(str(coco.root))


def test_of_two_categories_of_one_name_the_one_in_use_is_taken(coco):
    coco.content["categories"].append({"id": 99, "name": "car"})
    coco.write()
    source = read_coco_json(str(coco.root))
    assert source.class_names == ("car", "dog")
    assert source.category_ids == (3, 18)
    coco.content["annotations"][2]["category_id"] = 99
    coco.write()
    with pytest.raises(UserError, match='categories 3 and 99 have one name, "car"'):
        read_coco_json(str(coco.root))


def test_a_polygon_stands_for_the_box_that_is_missing(coco):
    coco.content["annotations"][0].update(bbox=None, segmentation=[[4, 5, 10, 5, 10, 25]])
    coco.write()
    np.testing.assert_array_equal(read(coco)[0].boxes[0], [4, 5, 10, 25])


def test_roboflows_layout_is_found(coco):
    folder = coco.root / "train"
    coco.image("").rename(folder)
    coco.file.rename(folder / "_annotations.coco.json")
    coco.file.parent.rmdir()
    source = read_coco_json(str(coco.root))
    assert [reader().image_id for reader in source.splits["train"]] == [70, 50]


def test_the_layout_with_a_folder_of_images_is_found(coco):
    (coco.root / "images").mkdir()
    coco.image("").rename(coco.root / "images" / "val")
    coco.file.rename(coco.file.with_name("val.json"))
    source = read_coco_json(str(coco.root))
    assert [reader().image_id for reader in source.splits["val"]] == [70, 50]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png"])
def test_files_outside_of_the_folder_are_refused(coco, name, tmp_path):
    secret = tmp_path / "coco" / "secret.png"
    outside = tmp_path / "outside.png"
    shutil.copy(coco.image("p.jpg"), outside)
    secret.unlink(missing_ok=True)
    (coco.image("link.png")).symlink_to(outside)
    coco.content["images"][0]["file_name"] = {"../secret.png": "../../outside.png"}.get(name, name)
    coco.write()
    with pytest.raises(UserError, match="leads out of the folder; the option outside=True"):
        read_coco_json(str(coco.root))
    if name == "link.png":
        assert read(coco, outside=True)[0].image == outside.read_bytes()


def test_backslashes_and_the_other_unicode_form_find_the_file(coco):
    (coco.image("sub")).mkdir()
    coco.image("p.jpg").rename(coco.image("sub") / "caf\u00e9.jpg")
    coco.content["images"][0]["file_name"] = "sub\\cafe\u0301.jpg"
    coco.write()
    assert read(coco)[0].filename.endswith("caf\u00e9.jpg")


def test_categories_must_agree_between_splits(coco):
    shutil.copytree(coco.image(""), coco.root / "train")
    other = {**coco.content, "categories": [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}]}
    coco.file.with_name("instances_train.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="not those of .*: id (3|18) is .* here and .* there"):
        read_coco_json(str(coco.root))


def test_the_digest_follows_the_annotations(coco):
    before = read_coco_json(str(coco.root)).digest
    assert read_coco_json(str(coco.root)).digest == before
    coco.content["annotations"].pop()
    coco.write()
    assert read_coco_json(str(coco.root)).digest != before
