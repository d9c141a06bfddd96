import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_stages import step_beyond_the_first_stage

from rpn_jax.models.backbones.vgg import VGG16
from rpn_jax.models.rcnn import build_rcnn
from rpn_jax.weights.loading import load_parts, recognize


def naive_convolution(x, kernel, bias):
    """3x3 with zero padding and ReLU, one output position at a time."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = np.empty((height, width, kernel.shape[-1]))
    for row in range(height):
        for column in range(width):
            patch = padded[row : row + 3, column : column + 3]
            y[row, column] = np.tensordot(patch, kernel, 3) + bias
    return np.maximum(y, 0)


def naive_pool(x):
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    return x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).max((1, 3))


def naive_vgg(image, backbone):
    """The ends of stages c1 and c2."""
    backbone = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), backbone)
    x = naive_convolution(image, **backbone["c1"]["conv1_1"])
    c1 = naive_convolution(x, **backbone["c1"]["conv1_2"])
    x = naive_convolution(naive_pool(c1), **backbone["c2"]["conv2_1"])
    return c1, naive_convolution(x, **backbone["c2"]["conv2_2"])


def check_against_naive(params, image):
    model = VGG16(output_stages=("c1", "c2"))
    outputs = jax.jit(model.apply)({"params": params}, image[None])
    for output, expected in zip(outputs, naive_vgg(image, params), strict=True):
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(output[0] / scale, expected / scale, atol=1e-5)


def test_two_stages_equal_a_naive_convolution(random_variables):
    image = np.random.default_rng(0).normal(size=(7, 10, 3)).astype(np.float32)
    params = random_variables(VGG16(output_stages=("c2",)), image[None])["params"]
    check_against_naive(params, image)


def test_two_stages_with_the_trained_weights_equal_a_naive_convolution(shared_data):
    path = shared_data("../weights/vgg16_conv_bgr_f16.npz")
    image = np.random.default_rng(0).uniform(-120, 150, (7, 10, 3)).astype(np.float32)
    network = build_rcnn(backbone="vgg16", output_stage="c2")
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image[None]))
    with np.load(path) as file:
        loaded = load_parts(path, *recognize(path, dict(file)), network, shapes, "caffe")
    check_against_naive(loaded.collections["params"]["backbone"], image)


@pytest.mark.parametrize("ceil_pools", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (37, 63), (16, 17)])
def test_strides_and_grid_describe_the_outputs(height, width, ceil_pools):
    stages = ("c1", "c2", "c3", "c4", "c5")
    model = VGG16(output_stages=stages, ceil_pools=ceil_pools)
    image = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    outputs, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert model.strides == (1, 2, 4, 8, 16)
    assert tuple(output.shape[1:3] for output in outputs) == model.grid_hw(height, width)
    assert [output.shape[3] for output in outputs] == [64, 128, 256, 512, 512]


def test_a_photograph_has_as_many_cells_as_in_caffe():
    assert VGG16().grid_hw(600, 1000) == ((37, 62),)
    assert VGG16(ceil_pools=True).grid_hw(600, 1000) == ((38, 63),)


def test_it_is_vgg16():
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    params = jax.eval_shape(lambda x: VGG16().init(jax.random.key(0), x), image)["params"]
    # torchvision 0.28: sum(p.numel() for p in vgg16().features.parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 14_714_688


def test_an_earlier_output_stage_leaves_out_the_later_ones():
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    model = VGG16(output_stages=("c3",))
    assert set(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)["params"]) == {
        "c1",
        "c2",
        "c3",
    }


def test_frozen_stages_get_no_gradient_and_cost_none(random_variables):
    image = np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype(np.float32)
    params = random_variables(VGG16(output_stages=("c2",)), image)["params"]

    def loss(c2, c1, frozen_stages):
        model = VGG16(frozen_stages=frozen_stages, output_stages=("c2",))
        return (model.apply({"params": {"c1": c1, "c2": c2}}, image)[0] ** 2).sum()

    def compiled(argnums, frozen_stages):
        gradient = jax.jit(jax.grad(loss, argnums), static_argnums=2)
        return gradient.lower(params["c2"], params["c1"], frozen_stages).compile()

    frozen, only_c2 = compiled((0, 1), 1), compiled((0,), 0)
    gradients, zeros = frozen(params["c2"], params["c1"])
    (expected,) = only_c2(params["c2"], params["c1"])
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(zeros))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), gradients, expected)
    assert all((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(
        frozen.cost_analysis()["flops"], only_c2.cost_analysis()["flops"], rtol=0.01
    )


def test_frozen_stages_keep_their_statistics_and_get_no_gradient_in_bfloat16(random_variables):
    model = VGG16(
        norm="sync_batch_norm", frozen_stages=1, output_stages=("c2",), dtype=jnp.bfloat16
    )
    images = np.random.default_rng(1).normal(size=(2, 1, 4, 6, 3)).astype(np.float32)
    variables = random_variables(model, images[0])
    gradients, changed = step_beyond_the_first_stage(model, variables, images)
    assert all(jax.tree.leaves(changed["c2"]))
    assert all((gradients["c2"][f"conv2_{i}"]["norm"]["scale"] != 0).any() for i in (1, 2))
