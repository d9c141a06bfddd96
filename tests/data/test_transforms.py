import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpn_jax.data.transforms import decode_image, flip_horizontally, resize, resized_hw
from rpn_jax.errors import UserError

BOXES = np.array([[0, 0, 4, 2], [1.5, 2, 3, 6]], np.float32)


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 6, x + y], axis=2).astype(np.uint8)


def encode(image, kind=".png"):
    return cv2.imencode(kind, image)[1].tobytes()


def test_decoding_gives_rgb():
    blue_first = np.zeros((3, 4, 3), np.uint8)
    blue_first[:, :, 2] = 200  # OpenCV's channel 2 is red
    image = decode_image(encode(blue_first), "x.png")
    np.testing.assert_array_equal(image, np.broadcast_to(np.uint8([200, 0, 0]), (3, 4, 3)))


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((3, 4), 90, np.uint8),
        np.full((3, 4, 4), 90, np.uint8),
        np.full((3, 4, 3), 90 * 256, np.uint16),
    ],
    ids=["grey", "transparent", "16 bits"],
)
def test_any_kind_of_image_becomes_rgb_of_8_bits(pixels):
    image = decode_image(encode(pixels), "x.png")
    np.testing.assert_array_equal(image, np.full((3, 4, 3), 90, np.uint8))


def test_the_exif_orientation_is_ignored():
    jpeg = encode(gradient(20, 30), ".jpg")
    # A TIFF header, little-endian, with one entry: tag 0x0112 (orientation), a short, 6 (turn 90).
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (30, 20, 3)
    np.testing.assert_array_equal(decode_image(turned, "x"), decode_image(jpeg, "x"))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_truncated_image_is_an_error_that_names_the_file(kind, share):
    data = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), kind)
    with pytest.raises(UserError, match=r"^dir/cut\.img: .*(truncated|empty)"):
        decode_image(data[: int(share * len(data))], "dir/cut.img")


def test_a_jpeg_without_its_end_is_refused_whatever_opencv_makes_of_it(monkeypatch):
    data = encode(gradient(20, 30), ".jpg")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(UserError, match="x.jpg: the JPEG is truncated"):
        decode_image(data[:-2], "x.jpg")
    assert decode_image(data + b"trailing", "x.jpg").shape == (20, 30, 3)


def test_what_is_no_image_is_an_error():
    with pytest.raises(UserError, match="notes.jpg: not an image"):
        decode_image(b"hello", "notes.jpg")


@pytest.mark.parametrize(
    ("hw", "sides", "expected"),
    [
        ((375, 500), (400, 667), (400, 533)),  # 500 * 400/375 = 533.3
        ((500, 375), (400, 667), (533, 400)),
        ((375, 500), (600, 1000), (600, 800)),
        ((200, 1000), (600, 1000), (200, 1000)),  # the cap: 1000/1000 < 600/200
        ((300, 1000), (600, 800), (240, 800)),
        ((1, 3000), (600, 1000), (1, 1000)),  # 1/3 pixel, of which one is left
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
    assert min(new) <= shorter
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
