import pathlib
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


@pytest.mark.parametrize("text", ["", "five", "nan", "inf", "1e400"])
def test_a_coordinate_that_is_no_number_is_an_error_or_left_out(voc, text):
    voc.annotation("a").write_text(
        voc.annotation("a").read_text().replace("<xmax>10<", f"<xmax>{text}<")
    )
    with pytest.raises(UserError, match=r"a\.xml: object 1: .*<xmax>"):
        read_voc_folder(str(voc.root))
    source = read_voc_folder(str(voc.root), skip_bad=True)
    assert len(source.splits["train"][0]().boxes) == 1
    (finding,) = source.left_out["train"]
    assert finding.file == str(voc.annotation("a"))
    assert finding.what.startswith("object 1: ")


def test_an_image_none_of_whose_objects_can_be_used_is_no_background(voc):
    voc.annotation("b").write_text(voc.annotation("b").read_text().replace(">25<", "><"))
    readers = read_voc_folder(str(voc.root), skip_bad=True).splits["train"]
    with pytest.raises(UserError, match=r"b\.xml: object 1: "):
        readers[1]()


@pytest.mark.parametrize("written", ["1", "True", "yes", " true "])
def test_what_is_difficult(voc, written):
    difficult(voc, written)
    assert read(voc)[0].ignore[1]


@pytest.mark.parametrize("written", ["0", "False", "no", ""])
def test_what_is_not_difficult(voc, written):
    difficult(voc, written)
    assert not read(voc)[0].ignore[1]


def test_another_word_for_difficult_is_an_error(voc):
    difficult(voc, "maybe")
    with pytest.raises(UserError, match=r'object 2: <difficult> "maybe" is neither 0 nor 1'):
        read_voc_folder(str(voc.root))


def difficult(voc, written):
    text = voc.annotation("a").read_text()
    assert "<difficult>1<" in text
    voc.annotation("a").write_text(text.replace("<difficult>1<", f"<difficult>{written}<"))


def test_names_with_spaces_and_numbers_are_names(voc):
    for name in ("IMG", "IMG (1)", "my photo", "shot 1"):
        shutil.copy(voc.image("b"), voc.image(name))
        shutil.copy(voc.annotation("b"), voc.annotation(name))
    text = voc.annotation("IMG (1)").read_text().replace(">25<", ">26<")
    voc.annotation("IMG (1)").write_text(text)
    voc.names("train").write_text("IMG\nIMG (1)\nmy photo\nshot 1\n")
    source = read_voc_folder(str(voc.root), splits=["train"])
    examples = [reader() for reader in source.splits["train"]]
    assert [pathlib.Path(e.filename).stem for e in examples] == [
        "IMG",
        "IMG (1)",
        "my photo",
        "shot 1",
    ]
    assert examples[0].boxes[0, 2] + 1 == examples[1].boxes[0, 2]


def test_an_image_listed_twice_is_taken_once_and_told(voc):
    voc.names("train").write_text("a\nb\na\n")
    source = read_voc_folder(str(voc.root))
    assert len(source.splits["train"]) == 2
    assert any("lists a more than once" in found.what for found in source.noted["train"])


def test_a_namespace_and_a_wrapper_hide_no_object(voc):
    text = voc.annotation("a").read_text()
    expected = read(voc)[0].boxes
    voc.annotation("a").write_text(text.replace("<annotation>", '<annotation xmlns="urn:x">'))
    np.testing.assert_array_equal(read(voc)[0].boxes, expected)
    head, *objects = text.partition("<object>")
    wrapped = head + "<objects>" + "".join(objects)
    voc.annotation("a").write_text(wrapped.replace("</annotation>", "</objects></annotation>"))
    np.testing.assert_array_equal(read(voc)[0].boxes, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image><box/></image></annotations>", "CVAT's own XML looks so"),
        ("<!DOCTYPE html><html><body>404</body></html>", "web page"),
        ("<annotation><image><box/></image></annotation>", "<box> stands where VOC has no"),
        ("<annotation><bndbox/></annotation>", "<bndbox> stands where VOC has no"),
    ],
)
def test_a_file_of_another_kind_is_no_image_without_objects(voc, text, message):
    voc.annotation("b").write_text(text)
    with pytest.raises(UserError, match=rf"b\.xml: .*{message}"):
        read_voc_folder(str(voc.root))


def test_two_images_of_one_name_are_both_named(voc):
    shutil.copy(voc.image("a"), voc.image("a").with_suffix(".png"))
    with pytest.raises(UserError, match=r"a\.xml: annotates one image, .* a\.jpg, a\.png"):
        read_voc_folder(str(voc.root))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_name_lists_of_other_programs_are_read(voc, encoding):
    voc.names("train").write_bytes("a\r\nb\r\n".encode(encoding))
    assert len(read(voc)) == 2


def test_a_name_list_of_another_encoding_is_named(voc):
    voc.names("train").write_bytes("caf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.txt: is not text in UTF-8"):
        read_voc_folder(str(voc.root))


@pytest.mark.parametrize("width", ["inf", "-4", "4.5", "1e99"])
def test_a_width_that_is_none_is_named(voc, width):
    voc.annotation("a").write_text(voc.annotation("a").read_text().replace(">40<", f">{width}<"))
    with pytest.raises(UserError, match=r"a\.xml: <width> .*is no"):
        read_voc_folder(str(voc.root))


def test_boxes_that_begin_at_0_are_told_and_can_be_counted_so(voc):
    text = voc.annotation("a").read_text()
    voc.annotation("a").write_text(text.replace("<xmin>1<", "<xmin>0<"))
    source = read_voc_folder(str(voc.root))
    assert any("begin at 0" in found.what for found in source.noted["train"])
    source = read_voc_folder(str(voc.root), first_pixel=0)
    assert not any("begin at 0" in found.what for found in source.noted["train"])
    np.testing.assert_array_equal(source.splits["train"][0]().boxes[0], [0, 1, 10, 20])


def test_control_characters_in_class_names_are_escaped(voc):
    voc.annotation("b").write_text(voc.annotation("b").read_text().replace("cat", "c&#x85;at"))
    assert "c\\x85at" in read_voc_folder(str(voc.root)).class_names


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
        ("<annotation><object><bndbox/></object></annotation>", "object 1: has no <name>"),
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
