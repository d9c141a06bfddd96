"""Image files: what is decoded, which way up, and what is refused before it is."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from folders import turned_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rpn_jax.data.images import decode_image, read_header, read_image
from rpn_jax.errors import UserError


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_decoded_as_a_viewer_shows_it_or_as_it_is_stored(kind, orientation):
    stored = gradient(20, 30)
    data = turned_image(stored, orientation, kind)
    # Pillow's own turning, which also removes the tag.
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    header = read_header(data, "x")
    assert (header.height, header.width, header.orientation) == (20, 30, orientation)
    assert header.shown_hw() == shown.shape[:2]
    close = dict(rtol=0, atol=6 if kind == "JPEG" else 0)
    np.testing.assert_allclose(decode_image(data, "x").astype(int), shown, **close)
    np.testing.assert_allclose(
        decode_image(data, "x", header.stored_turn).astype(int), stored, **close
    )


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(value):
    exif = Image.Exif()
    exif[0x0112] = value
    file = io.BytesIO()
    Image.fromarray(gradient(20, 30)).save(file, "JPEG", exif=exif)
    assert read_header(file.getvalue(), "x").orientation == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0"]))
def test_broken_exif_does_not_matter(noise, start):
    jpeg = encode(gradient(20, 30), ".jpg")
    exif = start + noise
    data = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert sorted(decode_image(data, "x").shape) == [3, 20, 30]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [turned_image(gradient(20, 30), 6, k) for k in ("JPEG", "PNG", "TIFF", "WEBP")]
    ),
    st.lists(st.tuples(st.integers(12, 10_000), st.binary(max_size=4)), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_a_damaged_file_is_an_image_or_one_line(data, changes, cut):
    for place, content in changes:
        place %= len(data)
        data = data[:place] + content + data[place + len(content) :]
    said, shape = "x.img: ", ()
    try:
        shape = decode_image(data[: len(data) - cut], "x.img").shape
    except UserError as error:
        said = str(error)
    assert said.startswith("x.img: ")
    assert "\n" not in said
    assert shape[2:] in ((), (3,))


def huge_png(side):
    """A PNG of `side` x `side` black pixels in about side² / 8000 bytes."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    rows = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    packed = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_small_file_of_too_many_pixels_is_refused_undecoded(monkeypatch):
    data = huge_png(32_000)
    assert len(data) < 130_000
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"bomb\.png: the image has more than 1\d+ pixels; make it"):
        decode_image(data, "bomb.png")


def test_a_png_with_a_chunk_longer_than_the_file_is_not_decoded(monkeypatch):
    data = bytearray(encode(gradient(20, 30)))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = (2**32 - 1).to_bytes(4, "big")
    with pytest.raises(UserError, match=r"x\.png: the PNG is truncated, or damaged"):
        decode_image(bytes(data), "x.png")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg: not a regular file"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"null: not a regular file"):
        read_image("/dev/null")


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(2**31)  # sparse: it takes no room
    with pytest.raises(UserError, match=r"a\.jpg: larger than 1 GiB"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x18ftypheic", "a HEIC image, which is not read; convert it"),
        (b"\0\0\0\x18ftypisom", "a video under the name of an image; give it a name that ends in"),
    ],
)
def test_what_a_camera_writes_beside_images_is_said_to_be_that(start, said):
    with pytest.raises(UserError, match=f"^a.jpg: {said}"):
        read_header(start + bytes(99), "a.jpg")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg: cannot be read \(No such file"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "JPEG2000"])
def test_other_formats_that_viewers_show(kind):
    file = io.BytesIO()
    Image.fromarray(gradient(20, 30)).save(file, kind)
    assert decode_image(file.getvalue(), "x").shape == (20, 30, 3)
