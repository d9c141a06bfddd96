"""Backbones with the weights of other projects, and their features beside torchvision's own."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_weights import seeded_array, seeded_image

from rpn_jax.errors import UserError
from rpn_jax.models import build_rpn
from rpn_jax.models.pretrained import load_backbone

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@functools.cache
def network_and_shapes(backbone, **options):
    """A network, and the shapes of its variables: all that the reader looks at."""
    network = build_rpn(backbone=backbone, head_channels=8, **options)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return network, jax.eval_shape(network.init, jax.random.key(0), image)


def load(arrays, backbone="vgg16", convention="caffe", **options):
    network, shapes = network_and_shapes(backbone, **options)
    return load_backbone("weights.npz", arrays, network, shapes, convention)


def vgg16_arrays():
    """Each array holds its own number, so that a mix-up shows."""
    channels = [64, 64, 128, 128, 256, 256, 256, *6 * [512]]
    names = [f"conv{s}_{i}" for s, n in enumerate([2, 2, 3, 3, 3], 1) for i in range(1, n + 1)]
    arrays = {}
    for number, (name, inputs, outputs) in enumerate(
        zip(names, [3, *channels[:-1]], channels, strict=True)
    ):
        arrays[f"{name}_w"] = np.full((3, 3, inputs, outputs), number, np.float16)
        arrays[f"{name}_b"] = np.full(outputs, number + 0.5, np.float16)
    return arrays


def torchvision_resnet(depths, bottleneck):
    """The shape of each array of torchvision's ResNet, as its state dict orders them."""
    shapes = {}

    def convolution(name, inputs, outputs, size, norm):
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        for array in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{array}"] = (outputs,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    convolution("conv1", 3, 64, 7, "bn1")
    inputs = 64
    for layer, depth in enumerate(depths):
        width = 64 * 2**layer
        outputs = 4 * width if bottleneck else width
        for block in range(depth):
            prefix = f"layer{layer + 1}.{block}."
            sizes = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
            if not bottleneck:
                sizes = [(inputs, width, 3), (width, width, 3)]
            for i, size in enumerate(sizes, start=1):
                convolution(f"{prefix}conv{i}", *size, f"{prefix}bn{i}")
            if block == 0 and inputs != outputs:
                convolution(f"{prefix}downsample.0", inputs, outputs, 1, f"{prefix}downsample.1")
            inputs = outputs
    shapes["fc.weight"], shapes["fc.bias"] = (1000, inputs), (1000,)
    return shapes


def torchvision_vgg16():
    """The shape of each array of the convolutions of torchvision's VGG-16."""
    shapes, inputs = {}, 3
    for index, outputs in zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        (64, 64, 128, 128, 256, 256, 256, *6 * [512]),
        strict=True,
    ):
        shapes[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{index}.bias"] = (outputs,)
        inputs = outputs
    return shapes


def seeded(shapes):
    return {
        name: np.array(1) if name.endswith("tracked") else seeded_array(name, shape)
        for name, shape in shapes.items()
    }


RESNETS = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}


@functools.cache
def resnet18_arrays():
    return seeded(torchvision_resnet(*RESNETS["resnet18"]))


def test_every_array_of_caffes_vgg_reaches_its_place_as_float32():
    _, shapes = network_and_shapes("vgg16")
    loaded = load(vgg16_arrays())
    assert set(loaded.collections) == {"params"}
    params, expected = loaded.collections["params"], shapes["params"]["backbone"]
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)),
        params,
        expected,
    )
    number = 0
    for stage in ("c1", "c2", "c3", "c4", "c5"):
        for name in sorted(params[stage]):
            np.testing.assert_array_equal(params[stage][name]["kernel"], number)
            np.testing.assert_array_equal(params[stage][name]["bias"], number + 0.5)
            number += 1
    assert number == 13
    assert loaded.unused == []


def test_a_shorter_backbone_takes_the_stages_that_it_has():
    loaded = load(vgg16_arrays(), output_stage="c3")
    params = loaded.collections["params"]
    assert set(params) == {"c1", "c2", "c3"}
    np.testing.assert_array_equal(params["c3"]["conv3_3"]["kernel"], 6)
    assert loaded.unused == [f"conv{s}_{i}_{x}" for s in (4, 5) for i in (1, 2, 3) for x in "wb"]


def test_the_real_file(shared_data):
    path = shared_data("../weights/vgg16_conv_bgr_f16.npz")
    with np.load(path) as file:
        params = load(dict(file)).collections["params"]
        np.testing.assert_array_equal(
            params["c4"]["conv4_2"]["kernel"], file["conv4_2_w"].astype(np.float32)
        )


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "vgg16"])
def test_features_equal_torchvisions(backbone):
    is_vgg = backbone == "vgg16"
    shapes = torchvision_vgg16() if is_vgg else torchvision_resnet(*RESNETS[backbone])
    collections = load(seeded(shapes), backbone, "torchvision").collections
    network, _ = network_and_shapes(backbone)
    run = jax.jit(lambda image: network.backbone.apply(collections, image))
    with np.load(FIXTURES / f"{backbone}_features.npz") as file:
        assert set(file) == ({"61x75"} if is_vgg else {"61x75", "64x96"})
        for size, expected in file.items():
            (features,) = run(seeded_image(*map(int, size.split("x")))[None])
            scale = np.abs(expected).max()
            assert expected.std() > 0.01 * scale
            np.testing.assert_allclose(features[0], expected, rtol=0, atol=1e-4 * scale)


def test_trainable_batch_norm_gets_its_scale_as_a_parameter():
    loaded = load(resnet18_arrays(), "resnet18", "torchvision", norm="sync_batch_norm")
    norm = loaded.collections["params"]["c3"]["block1"]["shortcut"]["norm"]
    np.testing.assert_array_equal(norm["scale"], resnet18_arrays()["layer2.0.downsample.1.weight"])
    statistics = loaded.collections["batch_stats"]["c3"]["block1"]["shortcut"]["norm"]
    np.testing.assert_array_equal(
        statistics["var"], resnet18_arrays()["layer2.0.downsample.1.running_var"]
    )
    assert set(statistics) == {"mean", "var"}
    assert "fc.weight" in loaded.unused
    assert "layer4.0.conv1.weight" in loaded.unused


def refusal(arrays, *args, **options):
    """The one line of the refusal."""
    with pytest.raises(UserError) as error:
        load(arrays, *args, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("convention", ["torchvision", "centred"])
def test_other_pixels_are_refused(convention):
    message = refusal(vgg16_arrays(), convention=convention)
    assert message.startswith("config.model.input_convention: ")
    assert "set it to 'caffe'" in message


def test_another_model_is_refused():
    message = refusal(vgg16_arrays(), "resnet18")
    assert message.startswith("config.model.backbone: ")
    assert "the model has c1/conv1/norm/bias" in message
    message = refusal(resnet18_arrays(), "vgg16", "torchvision")
    assert message.startswith("config.model.backbone: ")
    message = refusal(resnet18_arrays(), "resnet34", "torchvision")
    assert "missing: layer1.2.bn1.bias" in message
    message = refusal(resnet18_arrays(), "resnet50", "torchvision")
    assert "missing: layer1.0.bn3.bias" in message
    assert "of another shape: layer2.0.downsample.1.bias (128,) instead of (512,)" in message


def test_group_norm_has_no_place_for_statistics():
    message = refusal(resnet18_arrays(), "resnet18", "torchvision", norm="group_norm")
    assert "left over: bn1.running_mean" in message


def test_the_stride_in_another_convolution_is_refused():
    message = refusal(resnet18_arrays(), "resnet50", "torchvision", stride_in_1x1=True)
    assert message.startswith("config.model.stride_in_1x1: ")


def test_weights_of_nothing_known_are_refused():
    message = refusal({"stem.weight": np.zeros(3)})
    assert "holds stem.weight" in message
    assert "torchvision's ResNet" in message


def test_names_and_shapes_that_differ_are_listed():
    arrays = vgg16_arrays()
    for name in ("conv1_2_w", "conv1_2_b", "conv2_1_w", "conv2_1_b", "conv2_2_w"):
        del arrays[name]
    arrays["conv1_1_w"] = arrays["conv1_1_w"].transpose(3, 2, 0, 1)
    message = refusal(arrays)
    assert "missing: conv1_2_b, conv1_2_w, conv2_1_b and 2 more" in message
    assert "of another shape: conv1_1_w (64, 3, 3, 3) instead of (3, 3, 3, 64)" in message


def test_integers_are_refused():
    arrays = vgg16_arrays()
    arrays["conv1_1_b"] = arrays["conv1_1_b"].astype(np.int8)
    assert "not of a float type: conv1_1_b" in refusal(arrays)


def test_values_that_are_not_finite_are_refused():
    arrays = vgg16_arrays()
    arrays["conv3_2_b"][7] = np.inf
    assert "not finite: conv3_2_b" in refusal(arrays)
