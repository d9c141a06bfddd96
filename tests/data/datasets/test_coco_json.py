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
    with pytest.raises(UserError, match=r"no instances_test\.json; splits there: extra, val"):
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
        (lambda c: c["images"][0].pop("file_name"), "an image has no file_name or no id"),
        (lambda c: c["images"][0].update(file_name="x.jpg"), r"not there, .*val/x\.jpg"),
        (lambda c: c["annotations"][0].update(image_id=7), "annotation 1 is of unknown image 7"),
        (lambda c: c["annotations"][0].update(category_id=7), "annotation 1 has unknown category"),
    ],
)
def test_a_bad_entry_is_an_error_or_a_reader_that_raises(coco, change, message):
    change(coco.content)
    coco.write()
    with pytest.raises(UserError, match=message):
        read_coco_json(str(coco.root))
    *good, bad = read_coco_json(str(coco.root), skip_bad=True).splits["val"]
    assert good[-1]().image_id == 50
    with pytest.raises(UserError, match=message):
        bad()


@pytest.mark.parametrize("bbox", [None, [1, 2, 3], ["a", 0, 1, 1], [float("nan"), 0, 1, 1]])
def test_a_box_that_is_not_four_numbers_becomes_nan(coco, bbox):
    coco.content["annotations"][2]["bbox"] = bbox
    coco.write()
    assert np.isnan(read(coco)[1].boxes).any()


def test_categories_must_agree_between_splits(coco):
    shutil.copytree(coco.image(""), coco.root / "train")
    other = {**coco.content, "categories": [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}]}
    coco.file.with_name("instances_train.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="its categories are not those of the other splits"):
        read_coco_json(str(coco.root))


def test_the_digest_follows_the_annotations(coco):
    before = read_coco_json(str(coco.root)).digest
    assert read_coco_json(str(coco.root)).digest == before
    coco.content["annotations"].pop()
    coco.write()
    assert read_coco_json(str(coco.root)).digest != before
