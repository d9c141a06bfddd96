import inspect

import numpy as np
import pytest
import references
from pycocotools import mask as coco_mask

from rpn_jax.data.masks import encode, encode_window
from rpn_jax.errors import UserError
from rpn_jax.evaluation.masks import (
    paste_all,
    paste_mask,
    paste_mask_as_torchvision,
    paste_masks,
)

HEIGHT, WIDTH = 12, 15
RNG = np.random.default_rng(0)


def slowly_pasted(mask, box):
    """The sample at each pixel's centre, between zeros."""
    x1, y1, x2, y2 = box.astype(np.float64)
    padded = np.pad(mask.astype(np.float64), 40)[..., None]
    values = np.zeros((HEIGHT, WIDTH))
    for y, x in np.ndindex(values.shape):
        row = (y + 0.5 - y1) / (y2 - y1) * len(mask) - 0.5
        column = (x + 0.5 - x1) / (x2 - x1) * len(mask) - 0.5
        values[y, x] = np.squeeze(references.interpolate(padded, row + 40, column + 40))
    return values >= 0.5


@pytest.mark.parametrize(
    "box",
    [
        (2, 3, 10, 11),  # inside
        (-4.3, -2.2, 5.1, 6.6),  # across two borders
        (9.5, 7.25, 20, 30),
        (0, 0, 15, 12),  # the whole image
        (6.1, 5.3, 7.9, 6.2),  # of about a pixel
    ],
)
def test_a_pixel_is_a_sample_at_its_centre(box):
    mask = RNG.random((7, 7)).astype(np.float32)
    expected = slowly_pasted(mask, np.float32(box))
    assert expected.any()
    np.testing.assert_array_equal(paste_mask(mask, np.float32(box), HEIGHT, WIDTH), expected)


def test_a_full_mask_is_its_box():
    pasted = paste_mask(np.ones((28, 28), np.float32), np.float32([3, 2, 9, 7]), HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:7, 3:9] = True
    np.testing.assert_array_equal(pasted, expected)


@pytest.mark.parametrize("pasting", [paste_mask, paste_mask_as_torchvision])
@pytest.mark.parametrize(
    "box", [(-40, -30, -20, -20), (20, 20, 30, 30), (0, 100, 9, 200), (5, 5, 5, 5)]
)
def test_a_box_outside_and_a_point_have_at_most_a_pixel(pasting, box):
    pasted = pasting(np.ones((4, 4), np.float32), np.float32(box), HEIGHT, WIDTH)
    assert pasted.shape == (HEIGHT, WIDTH)
    assert pasted.sum() <= 1


@pytest.mark.parametrize("rows", [(0, HEIGHT), (0, 5), (3, 8), (7, HEIGHT), (4, 4)])
@pytest.mark.parametrize("columns", [(0, WIDTH), (0, 2), (6, 9), (8, WIDTH), (3, 3)])
def test_a_window_is_encoded_as_its_image(rows, columns):
    rows, columns = slice(*rows), slice(*columns)
    for density in (0, 0.3, 0.8, 1):
        image = np.zeros((HEIGHT, WIDTH), bool)
        image[rows, columns] = RNG.random(image[rows, columns].shape) < density
        found = encode_window(image[rows, columns], rows, columns, HEIGHT, WIDTH)
        assert found == encode(image)


@pytest.mark.parametrize(
    ("name", "paste"), [("continuous", paste_mask), ("torchvision", paste_mask_as_torchvision)]
)
def test_all_masks_of_an_image_are_pasted_and_encoded(name, paste):
    masks = RNG.random((30, 7, 7)).astype(np.float32)
    boxes = np.sort(RNG.uniform(-6, 20, (30, 2, 2)), axis=1).reshape(30, 4).astype(np.float32)
    found = paste_all(masks, boxes, (HEIGHT, WIDTH), name, 0.5)
    pairs = zip(masks, boxes, strict=True)
    assert found == [encode(paste(mask, box, HEIGHT, WIDTH)) for mask, box in pairs]


def test_a_mask_is_encoded_as_pycocotools_has_it():
    bitmap = RNG.random((HEIGHT, WIDTH)) > 0.6
    found = {"size": [HEIGHT, WIDTH], "counts": encode(bitmap).decode()}
    # Columns first: the lengths of runs, of zeros to begin with.
    pixels = np.concatenate([[False], bitmap.T.ravel(), [not bitmap[-1, -1]]])
    ends = np.flatnonzero(pixels[1:] != pixels[:-1])
    counts = np.diff([0, *ends]).tolist()
    expected = coco_mask.frPyObjects({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)
    assert found == {"size": [HEIGHT, WIDTH], "counts": expected["counts"].decode()}
    np.testing.assert_array_equal(coco_mask.decode(found), bitmap)
    assert encode(np.zeros((2, 3), bool)) == b"6"


BOXES = np.float64([[1, 2, 20, 20], [5, 5, 39, 30]])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"boxes": BOXES[:1]}, r"masks, boxes: are \(2, 4, 4\) and \(1, 4\); give \(n, M, M\) and"),
        ({"masks": np.ones((2, 1, 4, 4))}, r"masks, boxes: are \(2, 1, 4, 4\) and \(2, 4\)"),
        ({"masks": np.ones(())}, r"masks, boxes: are \(\) and"),
        ({"boxes": np.full((2, 4), np.nan)}, "boxes: have a coordinate that is not finite"),
        ({"height": 30.5}, "height=30.5: give a whole number of pixels"),
        ({"width": 0}, "width=0: give a whole number of pixels, at least 1"),
        ({"pasting": "x"}, "pasting='x': give one of continuous, torchvision"),
        ({"threshold": 5}, "threshold=5: give a probability"),
    ],
)
def test_what_cannot_be_pasted_is_a_line(given, said):
    arguments = {"masks": np.ones((2, 4, 4)), "boxes": BOXES, "height": 30, "width": 40}
    with pytest.raises(UserError, match=said):
        inspect.unwrap(paste_masks)(**arguments | given)  # as users have it, without type checks
