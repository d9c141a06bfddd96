import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpn_jax.data.transforms import flip_horizontally, resize, resized_hw

BOXES = np.array([[0, 0, 4, 2], [1.5, 2, 3, 6]], np.float32)


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 6, x + y], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("hw", "sides", "expected"),
    [
        ((375, 500), (400, 667), (400, 533)),  # 500 * 400/375 = 533.3
        ((500, 375), (400, 667), (533, 400)),
        ((375, 500), (600, 1000), (600, 800)),
        ((200, 1000), (600, 1000), (200, 1000)),  # the cap: 1000/1000 < 600/200
        ((300, 1000), (600, 800), (240, 800)),
        (
            (9000, 20),
            (64, 96),
            (96, 8),
        ),  # 0.2 pixels wide; at stride 16 a first anchor is centred at 8
        ((128, 128), (128, 128), (128, 128)),
    ],
)
def test_size_after_resizing(hw, sides, expected):
    shorter, longer = sides
    assert resized_hw(*hw, shorter_side=shorter, longer_side=longer) == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 800), st.integers(0, 600))
def test_sides_keep_within_their_bounds(height, width, shorter, extra):
    new = resized_hw(height, width, shorter_side=shorter, longer_side=shorter + extra)
    assert max(new) <= shorter + extra
    assert min(8, shorter) <= min(new) <= shorter
    assert min(new) == shorter or max(new) == shorter + extra


def test_each_axis_of_a_box_has_its_own_factor():
    image, boxes = resize(gradient(10, 20), BOXES, (15, 50))
    assert image.shape == (15, 50, 3)
    assert boxes.dtype == np.float32
    np.testing.assert_allclose(boxes, [[0, 0, 10, 3], [3.75, 3, 7.5, 9]])  # x * 2.5, y * 1.5


def test_resizing_to_the_same_size_changes_nothing():
    image, boxes = resize(gradient(10, 20), BOXES, (10, 20))
    np.testing.assert_array_equal(image, gradient(10, 20))
    np.testing.assert_array_equal(boxes, BOXES)


def test_shrinking_averages_instead_of_skipping():
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = 200
    image, _ = resize(stripes, BOXES, (4, 4))
    np.testing.assert_array_equal(image, np.full((4, 4, 3), 100, np.uint8))


def test_a_flip_moves_box_and_pixels_together():
    image = np.zeros((8, 10, 3), np.uint8)
    image[2:6, 1:4] = 255
    boxes = np.array([[1, 2, 4, 6]], np.float32)
    image, boxes = flip_horizontally(image, boxes)
    np.testing.assert_array_equal(boxes, [[6, 2, 9, 6]])  # 10 - 4, 10 - 1
    assert (image[2:6, 6:9] == 255).all()
    assert image.sum() == 4 * 3 * 3 * 255


def test_flipping_twice_changes_nothing():
    image, boxes = flip_horizontally(*flip_horizontally(gradient(6, 8), BOXES))
    np.testing.assert_array_equal(image, gradient(6, 8))
    np.testing.assert_array_equal(boxes, BOXES)


def test_no_boxes_pass_through():
    image, boxes = resize(gradient(6, 8), np.zeros((0, 4), np.float32), (12, 16))
    assert flip_horizontally(image, boxes)[1].shape == (0, 4)


@pytest.mark.parametrize("new_hw", [(3, 4), (6, 8), (2, 3)])
def test_what_is_written_onto_a_canvas_leaves_the_rest_black(new_hw):
    height, width = new_hw
    canvas = np.zeros((10, 12, 3), np.uint8)
    place = canvas[:height, :width]
    image, boxes = resize(gradient(3, 4) + 1, BOXES, new_hw, out=place)
    alone, same_boxes = resize(gradient(3, 4) + 1, BOXES, new_hw)
    np.testing.assert_array_equal(place, alone)
    np.testing.assert_array_equal(boxes, same_boxes)
    assert np.shares_memory(image, canvas)
    assert not canvas[height:].any()
    assert not canvas[:, width:].any()
