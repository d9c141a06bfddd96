"""One object's mask of any origin: the right one, or why there is none."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rpn_jax.data.annotations.segmentations import Mask, compact, read_png, read_segmentation
from rpn_jax.data.masks import decode, encode
from rpn_jax.errors import UserError

BITMAP = np.zeros((30, 40), bool)
BITMAP[5:20, 8:30] = True
COUNTS = encode(BITMAP)


def read(value):
    return read_segmentation(compact(value), 30, 40)


def test_polygons_and_runs_are_the_same_mask():
    runs = [8 * 30 + 5, *[15, 15] * 21, 15, 10 + 10 * 30]
    assert sum(runs) == 30 * 40
    for value in (
        [[8, 5, 30, 5, 30, 20, 8, 20]],
        [["8", 5, 30, 5, 30, 20, 8.0, 20]],
        [[8, 5, 20, 5, 20, 20, 8, 20], [20, 5, 30, 5, 30, 20, 20, 20]],
        {"size": [30, 40], "counts": runs},
        {"size": [30, 40], "counts": COUNTS.decode()},
    ):
        mask = read(value)
        assert not mask.problem
        np.testing.assert_array_equal(decode(mask.counts, 30, 40), BITMAP)
    for nothing in (None, [], ""):
        assert read(nothing) == Mask(b"")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([[1, 2, 3, 4]], "polygon 1 has 2 of at least 3 points"),
        ([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5]], "polygon 2 has 5 numbers, an odd count"),
        ([[1, 2, float("nan"), 4, 5, 6]], "polygon 1 has a coordinate that is not a finite number"),
        ([[0, 0, 1e9, 0, 0, 1e9]], "polygon 1 reaches far beyond the 40x30 image"),
        ([[50, 35, 60, 35, 60, 40]], "covers no pixel of the 40x30 image"),
        ([[0, 0, 40, 30] * 999], "polygon 1 has an outline longer than the image has pixels"),
        ([1, 2, 3, 4, 5, 6], "is neither a list of polygons, [[x, y, x, y, …], …], nor runs"),
        ("polygon", "is neither a list of polygons, [[x, y, x, y, …], …], nor runs"),
        (
            {"size": [30_000_000_000, 40], "counts": [1]},
            "size=[30000000000, 40] of its runs is not the image's height and width, [30, 40]",
        ),
        ({"size": [30, 40], "counts": [1, 10**12]}, "are no runs of 1200 pixels"),
        ({"size": [30, 40], "counts": [1200, -1, 1]}, "are no runs"),
        ({"size": [30, 40], "counts": [600, 599]}, "are no runs of 1200 pixels"),
        ({"size": [30, 40], "counts": "zzzz"}, "are no runs of 1200 pixels"),
        ({"size": [30, 40], "counts": "5"}, "are no runs of 1200 pixels"),
        # pycocotools read on behind a number that goes on at the end, which ended the process.
        ({"size": [30, 40], "counts": "1" * 63 + "P"}, "are no runs of 1200 pixels"),
        ({"size": [30, 40], "counts": COUNTS.decode() + "P"}, "are no runs of 1200 pixels"),
        ({"size": [30, 40], "counts": COUNTS.decode() + "\0"}, "are no runs of 1200 pixels"),
        ({"size": [30, 40]}, "counts=null are no runs"),
    ],
)
def test_what_is_no_mask_of_the_image_is_told(value, problem):
    mask = read(value)
    assert mask.problem.endswith(problem)
    assert not mask.counts


def test_an_outline_that_crosses_itself_is_noted():
    crossing = read([[2, 2, 38, 28, 38, 2, 2, 28]])
    assert crossing.note == "polygon 1 crosses itself"
    assert crossing.counts
    angles, radii = np.arange(10) * np.pi / 5, np.tile([14, 7], 5)
    star = np.stack([20 + radii * np.cos(angles), 15 + radii * np.sin(angles)], axis=1)
    assert not read([star.ravel().tolist()]).note


def png(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


OBJECTS = np.zeros((30, 40), np.uint8)
OBJECTS[5:20, 8:20], OBJECTS[5:20, 20:30], OBJECTS[4, 8:30] = 1, 2, 255
HEADER = b"IHDR" + (2_000_000_000).to_bytes(4) * 2 + png(OBJECTS)[24:29]
DAMAGED = png(OBJECTS)[:-40] + bytes([png(OBJECTS)[-40] ^ 1]) + png(OBJECTS)[-39:]
BILLIONS = png(OBJECTS)[:12] + HEADER + zlib.crc32(HEADER).to_bytes(4) + png(OBJECTS)[33:]


@pytest.mark.parametrize(
    ("content", "count", "said"),
    [
        (png(OBJECTS), 1, "has an object 2, but the annotation only 1"),
        (png(OBJECTS[:9]), 2, "has 40x9 pixels, the image 40x30"),
        (png(np.zeros((30, 40, 3), np.uint8)), 2, "its pixels are RGB, not the numbers of objects"),
        (png(OBJECTS.astype(np.uint16)), 2, "its pixels are I;16, not the numbers of objects"),
        (png(OBJECTS)[:-30], 2, "the PNG is truncated, or damaged"),
        (DAMAGED, 2, "the PNG is truncated, or damaged"),
        (BILLIONS, 2, "the image has more than 178956970 pixels"),
        (b"", 2, "the image file is empty"),
        (b"no picture", 2, "not an image"),
        (png(OBJECTS, "JPEG"), 2, "a.png: is an image of another format; masks are PNGs$"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_png_of_the_objects_is_a_line(content, count, said, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_png(path, range(1, count + 1), count, (30, 40))
    assert "\n" not in str(caught.value)


def test_a_png_with_fewer_objects_leaves_those_without_a_mask(tmp_path):
    (tmp_path / "a.png").write_bytes(png(OBJECTS))
    first, second, third = read_png(tmp_path / "a.png", (1, 2, 3), 3, (30, 40))
    np.testing.assert_array_equal(decode(first.counts, 30, 40), OBJECTS == 1)
    np.testing.assert_array_equal(decode(second.counts, 30, 40), OBJECTS == 2)
    assert third == Mask(b"", "has no pixel in a.png")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_grey_masks_of_few_bits_keep_their_numbers(bits, tmp_path):
    lines = ["".join(f"{number % 255:0{bits}b}" for number in row) for row in OBJECTS]
    packed = b"".join(b"\0" + int(line, 2).to_bytes(5 * bits) for line in lines)

    def chunk(kind, content):
        crc = zlib.crc32(kind + content).to_bytes(4)
        return len(content).to_bytes(4) + kind + content + crc

    header = (40).to_bytes(4) + (30).to_bytes(4) + bytes([bits, 0, 0, 0, 0])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    for mask, number in zip(read_png(tmp_path / "a.png", (1, 2), 2, (30, 40)), (1, 2), strict=True):
        np.testing.assert_array_equal(decode(mask.counts, 30, 40), number == OBJECTS)


NUMBERS = st.integers() | st.floats() | st.integers(-9, 60) | st.none() | st.text(max_size=3)
VALUES = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=8), max_leaves=20)


@given(
    VALUES
    | st.lists(st.lists(st.integers(-40, 80), min_size=5, max_size=12), min_size=1, max_size=3)
    | st.fixed_dictionaries({"size": st.just([30, 40]) | VALUES, "counts": VALUES | st.text()})
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_anything_is_a_mask_or_a_line(value):
    mask = read(value)
    assert "\n" not in mask.problem
    if mask.counts:
        assert set(np.unique(decode(mask.counts, 30, 40))) <= {0, 1}
