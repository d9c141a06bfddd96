import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpn_jax.errors import UserError
from rpn_jax.models.inputs import CONVENTIONS, input_convention, normalize_images


def one_pixel(convention, rgb=(10, 20, 30)):
    images = np.array(rgb, np.uint8).reshape(1, 1, 1, 3)
    return normalize_images(images, np.ones((1, 2), np.float32), convention)[0, 0, 0]


def test_caffe_turns_to_bgr_and_subtracts_the_means():
    expected = [30 - 104.00699, 20 - 116.66877, 10 - 122.67892]
    np.testing.assert_allclose(one_pixel(CONVENTIONS["caffe"]), expected, rtol=1e-6)


def test_torchvision_divides_by_255_then_standardizes():
    expected = [
        (10 / 255 - 0.485) / 0.229,
        (20 / 255 - 0.456) / 0.224,
        (30 / 255 - 0.406) / 0.225,
    ]
    np.testing.assert_allclose(one_pixel(CONVENTIONS["torchvision"]), expected, rtol=1e-5)


def test_centred_spans_minus_one_to_one():
    np.testing.assert_array_equal(one_pixel(CONVENTIONS["centred"], (0, 255, 255)), [-1, 1, 1])


@pytest.mark.parametrize("name", CONVENTIONS)
def test_canvas_padding_is_exactly_zero_whatever_it_held(name):
    # 7 is no convention's mean, so that no pixel of the image normalises to 0.
    images = np.full((2, 5, 6, 3), 7, np.uint8)
    image_hw = np.array([[3, 4], [5, 6]], np.float32)
    out = np.asarray(normalize_images(images, image_hw, CONVENTIONS[name]))
    inside = np.zeros((2, 5, 6), bool)
    inside[0, :3, :4] = True
    inside[1] = True
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out != 0, np.broadcast_to(inside[..., None], out.shape))


def test_jit_equals_eager():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    image_hw = np.array([[4, 2], [3, 5]], np.float32)
    jitted = jax.jit(normalize_images, static_argnums=2)
    for convention in CONVENTIONS.values():
        np.testing.assert_allclose(
            jitted(images, image_hw, convention),
            normalize_images(jnp.asarray(images), image_hw, convention),
            rtol=1e-5,
            atol=1e-6,
        )


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"config\.model\.input_convention.*caffe, torchvision"):
        input_convention("imagenet")


def test_a_known_name():
    assert input_convention("caffe").channel_order == "BGR"
