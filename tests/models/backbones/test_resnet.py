import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_stages import step_beyond_the_first_stage

from rpn_jax.models.backbones import BACKBONES
from rpn_jax.models.backbones.resnet import ResidualBlock, ResNet
from rpn_jax.models.layers.norms import EPSILON

# XLA takes several times as long to compile the default generator.
KEY = jax.random.key(0, impl="rbg")
TINY = {"depths": (1, 1, 1, 1), "bottleneck": False}


def shapes(model, height=32, width=48):
    image = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


# torchvision 0.28: parameters of conv1, bn1, layer1, layer2 and layer3 of each model.
@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("resnet18", 256, 2_782_784),
        ("resnet34", 256, 8_170_304),
        ("resnet50", 1024, 8_543_296),
        ("resnet101", 1024, 27_535_424),
        ("resnet152", 1024, 43_179_072),
        ("resnext50_32x4d", 1024, 8_435_008),
        ("resnext101_32x8d", 1024, 57_996_608),
    ],
)
def test_they_are_the_published_networks(name, channels, size):
    (output,), variables = shapes(BACKBONES[name](norm="group_norm"))
    assert output.shape == (2, 2, 3, channels)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == size


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({}, (4, 4, 8, 16, 32)),
        ({"stem": "small"}, (2, 2, 4, 8, 16)),
        ({"dilate_c5": True}, (4, 4, 8, 16, 16)),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(32, 64), (37, 65), (33, 31)])
def test_strides_and_grid_describe_the_outputs(options, strides, height, width):
    model = ResNet(**TINY, **options, output_stages=("c1", "c2", "c3", "c4", "c5"))
    outputs, _ = shapes(model, height, width)
    assert model.strides == strides
    assert tuple(output.shape[1:3] for output in outputs) == model.grid_hw(height, width)


def test_the_stem_pads_three_then_one_pixel(random_variables):
    # A kernel that copies the pixel under its centre: with padding 3 the convolution samples
    # pixels 0, 2, 4, …; the pool then takes the maximum of samples 2i-1, 2i and 2i+1.
    image = np.random.default_rng(0).uniform(1, 2, (1, 10, 13, 3)).astype(np.float32)
    model = ResNet(**TINY, output_stages=("c1",))
    variables = random_variables(model, image)
    kernel = np.zeros((7, 7, 3, 64), np.float32)
    kernel[3, 3, 0, 0] = 1
    variables["params"]["c1"]["conv1"]["conv"]["kernel"] = jnp.asarray(kernel)
    (output,) = jax.jit(model.apply)(variables, image)
    sampled = np.pad(image[0, ::2, ::2, 0], 1)
    rows, columns = output.shape[1:3]
    expected = [
        [sampled[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(columns)]
        for i in range(rows)
    ]
    np.testing.assert_allclose(output[0, :, :, 0], expected / np.sqrt(1 + EPSILON), rtol=1e-5)


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_where_a_bottleneck_strides(random_variables, stride_in_1x1):
    # Pixels in odd rows are lost to a 1x1 convolution of stride 2, but not to the 3x3.
    block = ResidualBlock(8, 2, True, stride_in_1x1, "sync_batch_norm", jnp.float32)
    x = np.random.default_rng(1).normal(size=(1, 6, 6, 4)).astype(np.float32)
    variables = random_variables(block, x, False)
    gradient = jax.jit(jax.grad(lambda x: block.apply(variables, x, False).sum()))(x)
    assert gradient.shape == x.shape
    assert (gradient[:, ::2, ::2] != 0).any()
    assert bool((gradient[:, 1::2] != 0).any()) == (not stride_in_1x1)


@pytest.mark.parametrize(
    "options",
    [
        {"bottleneck": False},
        {"bottleneck": True},
        {"bottleneck": True, "stride_in_1x1": True},
    ],
)
def test_every_second_cell_of_a_dilated_c5_is_that_of_the_strided_one(random_variables, options):
    image = np.random.default_rng(0).normal(size=(1, 40, 56, 3)).astype(np.float32)
    model = ResNet(depths=(1, 1, 1, 2), **options, stem="small", output_stages=("c5",))
    dilated = model.clone(dilate_c5=True)
    variables = random_variables(model, image)
    (expected,), (actual,) = (jax.jit(m.apply)(variables, image) for m in (model, dilated))
    assert (expected.shape[1:3], actual.shape[1:3]) == ((3, 4), (5, 7))
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(actual[:, ::2, ::2], expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("norm", ["sync_batch_norm", "group_norm"])
def test_an_untrained_block_passes_its_input_on(norm):
    block = ResidualBlock(32, 1, False, False, norm, jnp.float32)
    x = np.random.default_rng(1).normal(size=(1, 4, 5, 32)).astype(np.float32)
    variables = jax.jit(block.init, static_argnums=2)(KEY, x, False)
    y = jax.jit(block.apply, static_argnums=2)(variables, x, False)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_frozen_norms_let_a_block_learn(random_variables):
    block = ResidualBlock(32, 1, False, False, "frozen_batch_norm", jnp.float32)
    x = np.random.default_rng(1).normal(size=(1, 4, 5, 32)).astype(np.float32)
    variables = random_variables(block, x, False)

    def loss(params):
        return block.apply({**variables, "params": params}, x, False).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients))


def test_frozen_stages_keep_their_statistics_and_get_no_gradient(random_variables):
    model = ResNet(**TINY, norm="sync_batch_norm", frozen_stages=1, output_stages=("c2",))
    images = np.random.default_rng(1).normal(size=(2, 1, 16, 16, 3)).astype(np.float32)
    variables = random_variables(model, images[0])
    gradients, changed = step_beyond_the_first_stage(model, variables, images)
    assert all(jax.tree.leaves(changed["c2"]))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients["c2"]))
