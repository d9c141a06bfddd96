import jax
import numpy as np
import pytest
from peer_cases import (
    ROI_ALIGNS,
    ROI_SCALE,
    ROI_SIZE,
    ROI_STRIDES,
    boxes_beside_levels,
    gradient_of_regions,
    peer_answers,
    pyramid_regions,
    regions,
)

from rpn_jax.ops.roi import assign_levels, pyramid_roi_align, roi_align, roi_pool

ANSWERS = peer_answers("roi")


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def check(name, pool, levels):
    """Holds the features of the regions and the gradients of the maps against torchvision's."""
    expected = ANSWERS[f"{name}/features"]
    d_pooled = gradient_of_regions(*expected.shape)

    @jax.jit
    def both(levels, d_pooled):
        pooled, gradient = jax.vjp(pool, levels)
        return pooled, gradient(d_pooled)[0]

    pooled, d_levels = both(levels, d_pooled)
    close(pooled, expected)
    for index, d_level in enumerate(d_levels):
        close(d_level, ANSWERS[f"{name}/d_level{index}"])


@pytest.mark.parametrize("name", ROI_ALIGNS)
def test_bilinear_samples_are_torchvisions(name):
    features, boxes = regions(name)
    ratio, aligned = ROI_ALIGNS[name]
    options = {"size": ROI_SIZE, "scale": ROI_SCALE, "sampling_ratio": ratio, "aligned": aligned}
    # The huge region has 40 cells a bin, and torchvision as many samples.
    check(name, lambda x: roi_align(x[0], boxes, **options, max_samples=64), [features])


def test_maxima_are_torchvisions():
    features, boxes = regions("pool")
    check("pool", lambda x: roi_pool(x[0], boxes, size=ROI_SIZE, scale=ROI_SCALE), [features])


def test_the_pyramid_is_torchvisions():
    levels, boxes = pyramid_regions()
    numbers = assign_levels(boxes)
    assert set(numbers.tolist()) == {0, 1, 2, 3}
    check(
        "pyramid",
        lambda x: pyramid_roi_align(x, boxes, size=ROI_SIZE, strides=ROI_STRIDES),
        levels,
    )


def test_levels_are_torchvisions_beside_their_borders():
    np.testing.assert_array_equal(assign_levels(boxes_beside_levels()), ANSWERS["levels"])
