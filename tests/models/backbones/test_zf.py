import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpn_jax.models.backbones.zf import ZF, within_channel_norm
from rpn_jax.models.receptive_field import rows_seen

STAGES = ("c1", "c2", "c3", "c4", "c5")


def naive_convolution(x, kernel, bias, stride):
    """Padded by half the kernel, with ReLU, one output position at a time."""
    size = kernel.shape[0]
    x = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    y = np.empty((rows, columns, kernel.shape[-1]))
    for i, j in np.ndindex(rows, columns):
        patch = x[i * stride : i * stride + size, j * stride : j * stride + size]
        y[i, j] = np.tensordot(patch, kernel, 3) + bias
    return np.maximum(y, 0)


def naive_norm_and_pool(x):
    """Caffe's LRN within channels, then the maximum of 3x3 pixels around every other pixel.

    Windows are centred on pixels 0, 2, 4, … and on one more beyond the end if there is an even
    number: its first row is still the last pixel. That is Caffe's rounding for this pool.
    """
    height, width, _ = x.shape
    squares = np.pad(x**2, ((1, 1), (1, 1), (0, 0)))
    mean = sum(squares[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    x = x / (1 + 5e-5 * mean) ** 0.75
    return np.array(
        [
            [
                x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max((0, 1))
                for j in range(0, width + 1, 2)
            ]
            for i in range(0, height + 1, 2)
        ]
    )


def naive_zf(image, params):
    layers = {
        name: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer)
        for stage in params.values()
        for name, layer in stage.items()
    }
    x = naive_convolution(image, **layers["conv1"], stride=2)
    x = naive_convolution(naive_norm_and_pool(x), **layers["conv2"], stride=2)
    x = naive_norm_and_pool(x)
    for name in ("conv3", "conv4", "conv5"):
        x = naive_convolution(x, **layers[name], stride=1)
    return x


def test_features_equal_a_naive_network(random_variables):
    # 24 rows become 12, 7 (6 if its pool rounded down), 4, 3; 29 columns 15, 8, 4, 3.
    image = np.random.default_rng(0).normal(scale=60, size=(24, 29, 3)).astype(np.float32)
    params = random_variables(ZF(), image[None])["params"]
    (features,) = jax.jit(ZF().apply)({"params": params}, image[None])
    expected = naive_zf(image, params)
    assert features.shape == (1, 3, 3, 256)
    scale = np.abs(expected).max()
    assert expected.std() > 0.01 * scale
    np.testing.assert_allclose(features[0] / scale, expected / scale, atol=1e-5)


def shapes(model, height, width):
    image = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


@pytest.mark.parametrize("ceil_pools", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 75), (62, 224)])
def test_strides_and_grid_describe_the_outputs(height, width, ceil_pools):
    model = ZF(output_stages=STAGES, ceil_pools=ceil_pools)
    outputs, _ = shapes(model, height, width)
    assert model.strides == (2, 8, 16, 16, 16)
    assert tuple(output.shape[1:3] for output in outputs) == model.grid_hw(height, width)
    assert [output.shape[3] for output in outputs] == [96, 256, 384, 384, 256]


def test_a_photograph_has_as_many_cells_as_in_caffe():
    # Rows 600 / 2 = 300, ceil(299 / 2) + 1 = 151, (151 - 1) / 2 + 1 = 76, ceil(75 / 2) + 1 = 39.
    # Columns 500, ceil(499 / 2) + 1 = 251, 126, ceil(125 / 2) + 1 = 64.
    assert ZF().grid_hw(600, 1000) == ((39, 64),)
    assert ZF(ceil_pools=False).grid_hw(600, 1000) == ((38, 63),)


def test_its_cells_are_centred_on_pixels():
    variables = shapes(ZF(), 64, 64)[1]

    def features(images):
        return ZF().apply(jax.tree.map(lambda v: jnp.zeros(v.shape), variables), images)

    (c5,) = rows_seen(features, jax.ShapeDtypeStruct((1, 1024, 64, 3), jnp.float32))
    assert (c5.first[0, 30, 0, 0] + c5.last[0, 30, 0, 0]) / 2 == 16 * 30


def test_frozen_stages_get_no_gradient_in_bfloat16(random_variables):
    model = ZF(frozen_stages=1, output_stages=("c1", "c2"), dtype=jnp.bfloat16)
    image = np.random.default_rng(0).normal(size=(1, 16, 21, 3)).astype(np.float32)
    params = random_variables(model, image)["params"]

    def loss(params):
        c1, c2 = model.apply({"params": params}, image)
        return (c1.astype(jnp.float32) ** 2).sum() + (c2.astype(jnp.float32) ** 2).sum(), c2

    gradients, c2 = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert c2.dtype == jnp.bfloat16
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["c1"]))
    for leaf in jax.tree.leaves(gradients["c2"]):
        assert np.isfinite(leaf).all()
        assert (leaf != 0).any()


def naive_norm(x):
    """Caffe's LRN within channels, one pixel at a time: its mean counts nine pixels everywhere."""
    y = np.empty(x.shape)
    for n, i, j, c in np.ndindex(x.shape):
        around = x[n, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, c]
        y[n, i, j, c] = x[n, i, j, c] / (1 + 5e-5 * np.sum(around**2.0) / 9) ** 0.75
    return y


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (1, 1, 1, 1), (1, 2, 1, 2)])
def test_within_channel_norm_equals_a_naive_one(shape):
    x = np.random.default_rng(0).normal(scale=200, size=shape)  # as large as Caffe's activations
    y = within_channel_norm(x.astype(np.float32))
    assert (np.abs(y) < np.abs(x)).all()
    np.testing.assert_allclose(y, naive_norm(x), rtol=1e-5)


def test_within_channel_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.full((1, 3, 3, 1), 8, jnp.bfloat16)
    y = within_channel_norm(x)
    assert y.dtype == jnp.bfloat16
    # In the middle 8 / (1 + 5e-5 * 64)^0.75 = 7.981, which rounds to 7.96875 or 8: spacing 1/32.
    np.testing.assert_array_equal(y[0, 1, 1, 0].astype(jnp.float32), 7.96875)


def test_the_gradient_of_within_channel_norm_is_finite_at_zero():
    x = jnp.zeros((1, 3, 3, 1))
    np.testing.assert_array_equal(jax.grad(lambda x: within_channel_norm(x).sum())(x), 1)
