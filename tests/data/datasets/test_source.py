import numpy as np
import pytest

from rpn_jax.data.annotations.segmentations import Mask
from rpn_jax.data.datasets.source import Example, check_boxes, read_checked
from rpn_jax.data.masks import encode
from rpn_jax.errors import UserError, list_some


def example(boxes, **fields):
    boxes = np.array(boxes, float).reshape(-1, 4)
    defaults = dict(
        image=b"",
        filename="f.jpg",
        image_id=0,
        boxes=boxes,
        labels=np.arange(len(boxes)),
        ignore=np.zeros(len(boxes), bool),
        areas=None,
        declared_hw=None,
    )
    return Example(**{**defaults, **fields})


def test_a_good_box_is_left_as_it_is():
    checked = check_boxes(example([[0, 0, 40, 30], [1.25, 2, 3, 4]]), 30, 40)
    np.testing.assert_array_equal(checked.example.boxes, [[0, 0, 40, 30], [1.25, 2, 3, 4]])
    np.testing.assert_array_equal(checked.example.areas, [1200, 3.5])
    assert checked.example.boxes.dtype == np.float32
    assert not checked.clipped
    assert not checked.dropped


def test_a_box_over_the_border_is_clipped_and_listed():
    checked = check_boxes(example([[-5, 2, 10, 33]]), 30, 40)
    np.testing.assert_array_equal(checked.example.boxes, [[0, 2, 10, 30]])
    np.testing.assert_array_equal(checked.example.areas, [280])
    assert checked.clipped == [("f.jpg", "box 1 (-5, 2, 10, 33) clipped to 40x30")]


def test_a_rounding_error_over_the_border_is_clipped_without_a_word():
    checked = check_boxes(example([[0, 0, 40.01, 30]]), 30, 40)
    np.testing.assert_array_equal(checked.example.boxes, [[0, 0, 40, 30]])
    assert not checked.clipped


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ([3, 3, 3, 9], "has no area"),
        ([9, 3, 5, 9], "has no area"),
        ([41, 3, 50, 9], "is outside the 40x30 image"),
        ([40, 3, 50, 9], "is outside the 40x30 image"),
        ([-9, -9, 0, 9], "is outside the 40x30 image"),
    ],
)
def test_a_box_without_area_in_the_image_is_dropped_with_all_that_belongs_to_it(box, why):
    given = example([[0, 0, 5, 5], box, [1, 1, 6, 6]], ignore=np.array([False, False, True]))
    checked = check_boxes(given, 30, 40)
    np.testing.assert_array_equal(checked.example.boxes, [[0, 0, 5, 5], [1, 1, 6, 6]])
    np.testing.assert_array_equal(checked.example.labels, [0, 2])
    np.testing.assert_array_equal(checked.example.ignore, [False, True])
    assert [d.file for d in checked.dropped] == ["f.jpg"]
    assert checked.dropped[0].what.endswith(why)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_coordinate_that_is_no_number_is_an_error_or_drops_the_box(bad):
    given = example([[0, 0, 5, 5], [1, 1, bad, 6]])
    with pytest.raises(UserError, match=r"f\.jpg: box 2 \(1, 1, .*not a finite number"):
        check_boxes(given, 30, 40)
    checked = check_boxes(given, 30, 40, skip_bad=True)
    np.testing.assert_array_equal(checked.example.boxes, [[0, 0, 5, 5]])
    assert len(checked.dropped) == 1


def test_given_areas_are_kept_and_missing_ones_computed():
    given = example([[0, 0, 5, 5], [0, 0, 4, 2]], areas=np.array([7.5, np.nan]))
    np.testing.assert_array_equal(check_boxes(given, 30, 40).example.areas, [7.5, 8])


def test_an_area_that_is_missing_is_the_masks():
    triangle = np.tri(30, 40, dtype=bool)
    masks = [Mask(encode(triangle)), Mask(encode(triangle)), Mask(b"")]
    given = example(3 * [[0, 0, 30, 30]], areas=np.array([np.nan, 7, np.nan]))
    checked = check_boxes(given._replace(read_masks=lambda *_: masks), 30, 40)
    np.testing.assert_array_equal(checked.example.areas, [triangle.sum(), 7, 900])
    huge = example([[0, 0, 4, 2]], areas=np.array([1e300]))
    assert check_boxes(huge, 30, 40).example.areas > 1e38


def test_no_boxes():
    checked = check_boxes(example([]), 30, 40)
    assert checked.example.boxes.shape == (0, 4)
    assert checked.example.areas.shape == (0,)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    def reader():
        return example([], image=(tmp_path / "gone.jpg").read_bytes())

    with pytest.raises(UserError, match=r"gone\.jpg: cannot be read .*--skip-bad"):
        read_checked(reader, skip_bad=False)
    finding = read_checked(reader, skip_bad=True)
    assert finding.file.endswith("gone.jpg")


def test_a_name_that_is_not_utf_8_is_one_line():
    with pytest.raises(UserError, match=r"^'caf\\udce9\.jpg': the name is not UTF-8; rename"):
        read_checked(lambda: example([], filename="caf\udce9.jpg"), skip_bad=False)
    assert "UTF-8" in read_checked(lambda: example([], filename="\ud800"), skip_bad=True).what


def test_a_long_list_is_cut():
    assert list_some(["a", "b"]) == "a, b"
    assert list_some("abcde", limit=3) == "a, b, c and 2 more"
