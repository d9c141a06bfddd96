"""Canvases for images of any size."""

import pytest

from rpn_jax.data.canvases import LONGER_SIDES, canvas_hw, largest_canvas_hw

SIZES = [(height, width) for height in range(40, 400, 30) for width in range(40, 400, 30)]


def test_images_share_a_few_canvases_that_hold_them():
    canvases = {}
    for height, width in SIZES:
        canvas = canvas_hw(height, width, 80, 130)
        scale = min(80 / min(height, width), 130 / max(height, width))
        assert canvas[0] >= height * scale - 0.5
        assert canvas[1] >= width * scale - 0.5
        canvases[canvas] = None
    assert len(canvases) <= 2 * LONGER_SIDES
    assert all(side % 32 == 0 for canvas in canvases for side in canvas)


def test_a_longer_side_below_the_shorter_decides_alone():
    assert canvas_hw(300, 400, 9999, 130) == (160, 160)
    assert canvas_hw(400, 300, 9999, 130, exact=True) == (160, 128)


@pytest.mark.parametrize(
    ("image_hw", "expected"),
    [
        ((500, 375), (1088, 800)),  # 1067 x 800: torchvision's batch of this image alone
        ((354, 480), (800, 1088)),  # 800 x 1085
        ((100, 400), (352, 1344)),  # 333 x 1333, the longer side at its cap
        ((96, 96), (800, 800)),
    ],
)
def test_an_exact_canvas_is_the_one_that_torchvision_pads_to(image_hw, expected):
    assert canvas_hw(*image_hw, 800, 1333, exact=True) == expected


def test_the_largest_canvas_is_of_a_landscape_image():
    assert largest_canvas_hw(48, 64) == (48, 64)
    assert largest_canvas_hw(600, 1000) == (608, 1008)
    assert largest_canvas_hw(600, 400) == (400, 400)
