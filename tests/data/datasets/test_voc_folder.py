import shutil

import numpy as np
import pytest

from rpn_jax.data.datasets.voc_folder import read_voc_folder
from rpn_jax.errors import UserError


def read(voc, split="train", **options):
    source = read_voc_folder(str(voc.root), **options)
    return [reader() for reader in source.splits[split]]


def test_boxes_become_continuous_and_difficult_objects_ignore_regions(voc):
    first = read(voc)[0]
    # VOC's (1, 1, 10, 20) is ten columns and twenty rows of pixels from the corner on.
    np.testing.assert_array_equal(first.boxes, [[0, 0, 10, 20], [10, 4, 40, 30]])
    np.testing.assert_array_equal(first.ignore, [False, True])
    np.testing.assert_array_equal(first.labels, [0, 1])
    assert first.image == voc.image("a").read_bytes()
    assert first.filename == str(voc.image("a"))
    assert first.declared_hw == (30, 40)


def test_splits_are_the_name_lists_in_their_order_but_not_those_of_a_class(voc):
    voc.names("all").write_text("a\nb\n")
    source = read_voc_folder(str(voc.root))
    assert {split: len(readers) for split, readers in source.splits.items()} == {
        "test": 2,
        "train": 5,
    }
    assert [e.filename for e in read(voc, "test")] == [str(voc.image("d")), str(voc.image("a"))]
    assert source.class_names == ("cat", "dog")
    assert list(read_voc_folder(str(voc.root), splits=["test"]).splits) == ["test"]


def test_an_image_may_have_no_object(voc):
    assert read(voc)[2].boxes.shape == (0, 4)


def test_only_name_and_box_are_needed(voc):
    voc.annotation("b").write_text(
        "<annotation><object><name> cat </name><bndbox><xmin>2.5</xmin><ymin>3</ymin>"
        "<xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>"
    )
    example = read(voc)[1]
    np.testing.assert_array_equal(example.boxes, [[1.5, 2, 9, 8]])
    assert not example.ignore.any()
    assert example.declared_hw is None


def test_the_digest_follows_the_annotations(voc):
    before = read_voc_folder(str(voc.root)).digest
    assert read_voc_folder(str(voc.root)).digest == before
    voc.annotation("e").write_text(voc.annotation("b").read_text())
    assert read_voc_folder(str(voc.root)).digest != before


def test_equal_sides_are_no_area(voc):
    text = voc.annotation("b").read_text().replace("<xmax>25<", "<xmax>5<")
    voc.annotation("b").write_text(text)
    x1, _, x2, _ = read(voc)[1].boxes[0]
    assert x1 == x2


@pytest.mark.parametrize("text", ["", "five", "nan"])
def test_a_coordinate_that_is_no_number_becomes_nan(voc, text):
    voc.annotation("b").write_text(voc.annotation("b").read_text().replace(">25<", f">{text}<"))
    assert np.isnan(read(voc)[1].boxes[0, 2])


BILLION_LAUGHS = (
    '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><annotation>&c;</annotation>'
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "not readable as XML"),
        ("", "not readable as XML"),
        (BILLION_LAUGHS, "defines entities, which is refused"),
        (EXTERNAL, "defines entities, which is refused"),
        ("<annotation><object><bndbox/></object></annotation>", "object 1 has no name"),
    ],
)
def test_an_unusable_annotation_is_named_or_skipped(voc, text, message):
    voc.annotation("b").write_text(text)
    with pytest.raises(UserError, match=rf"b\.xml: .*{message}"):
        read_voc_folder(str(voc.root))
    readers = read_voc_folder(str(voc.root), skip_bad=True).splits["train"]
    with pytest.raises(UserError, match=message):
        readers[1]()
    assert readers[0]().image_id == 0


@pytest.mark.parametrize("missing", ["annotation", "image"])
def test_annotation_and_image_must_both_be_there(voc, missing):
    getattr(voc, missing)("d").unlink()
    with pytest.raises(UserError, match=r"d\.xml: (no such annotation|annotates an image)"):
        read_voc_folder(str(voc.root))
    readers = read_voc_folder(str(voc.root), skip_bad=True).splits["train"]
    with pytest.raises(UserError, match=r"d\.xml"):
        readers[3]()


@pytest.mark.parametrize("part", ["", "Annotations", "JPEGImages", "ImageSets/Main"])
def test_a_missing_folder_is_named(voc, part):
    shutil.rmtree(voc.root / part)
    with pytest.raises(UserError, match=rf"{(voc.root / part).name}: no such folder"):
        read_voc_folder(str(voc.root))


def test_an_empty_list_is_an_error(voc):
    voc.names("test").write_text("\n")
    with pytest.raises(UserError, match=r"test\.txt: the split is empty"):
        read_voc_folder(str(voc.root))


def test_an_unknown_split_is_an_error_that_lists_the_others(voc):
    with pytest.raises(UserError, match=r"no name list val\.txt; there are: cat_train, test"):
        read_voc_folder(str(voc.root), splits=["val"])


def test_the_blood_cells_have_two_broken_boxes(shared_data):
    source = read_voc_folder(str(shared_data("bccd")), splits=["trainval", "test"])
    assert source.class_names == ("Platelets", "RBC", "WBC")
    assert {split: len(readers) for split, readers in source.splits.items()} == {
        "trainval": 292,
        "test": 72,
    }
    boxes = np.concatenate([r().boxes for readers in source.splits.values() for r in readers])
    assert (boxes[:, 2:] > boxes[:, :2]).all(axis=1).sum() == len(boxes) - 2
