import numpy as np
import pytest
from peer_cases import COLOR_FACTORS, color_image, peer_answers

from rpn_jax.data import augmentation

ANSWERS = peer_answers("colors")


@pytest.mark.parametrize("name", COLOR_FACTORS)
def test_changes_of_colours_are_torchvisions(name):
    image = color_image()
    for factor in COLOR_FACTORS[name]:
        found = getattr(augmentation, name)(image, factor)
        apart = np.abs(found.astype(int) - ANSWERS[f"{name}/{factor}"])
        if name in ("adjust_saturation", "adjust_hue"):  # sums round, and what is cut off differs
            assert apart.max() <= 1
            assert (apart > 0).mean() < 0.01
        else:
            np.testing.assert_array_equal(apart, 0)
    np.testing.assert_array_equal(image, color_image())  # is left as it is
