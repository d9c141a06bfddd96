"""Backbones with the weights of other projects, and their features beside torchvision's own."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_weights import seeded_array

from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import build_rcnn
from rpn_jax.weights.layouts import LAYOUTS
from rpn_jax.weights.loading import load_parts, recognize

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@functools.cache
def network_and_shapes(backbone, **options):
    """A network, and the shapes of its variables: all that the reader looks at."""
    network = build_rcnn(backbone=backbone, head_channels=8, **options)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return network, jax.eval_shape(network.init, jax.random.key(0), image)


def load(arrays, backbone="vgg16", convention="caffe", **options):
    network, shapes = network_and_shapes(backbone, **options)
    loaded = load_parts("w.npz", *recognize("w.npz", arrays), network, shapes, convention)
    collections = {name: parts["backbone"] for name, parts in loaded.collections.items()}
    return loaded._replace(collections=collections)


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


def torchvision_vgg16_bn():
    """The shape of each array of the convolutions of torchvision's VGG-16 with BN."""
    shapes, inputs = {}, 3
    for index, outputs in zip(
        (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
        (64, 64, 128, 128, 256, 256, 256, *6 * [512]),
        strict=True,
    ):
        shapes[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{index}.bias"] = (outputs,)
        for array in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{index + 1}.{array}"] = (outputs,)
        inputs = outputs
    return shapes


def torchvision_alexnet():
    return {
        f"features.{index}.{array}": shape if array == "weight" else shape[:1]
        for index, shape in {
            0: (64, 3, 11, 11),
            3: (192, 64, 5, 5),
            6: (384, 192, 3, 3),
            8: (256, 384, 3, 3),
            10: (256, 256, 3, 3),
        }.items()
        for array in ("weight", "bias")
    }


def caffe_zf():
    kernels = {1: (7, 3, 96), 2: (5, 96, 256), 3: (3, 256, 384), 4: (3, 384, 384), 5: (3, 384, 256)}
    return {
        f"conv{i}_{array}": (size, size, inputs, outputs) if array == "w" else (outputs,)
        for i, (size, inputs, outputs) in kernels.items()
        for array in "wb"
    }


def densenet121(layer, transition, stem, arrays, kernel_shape):
    """The shapes of a DenseNet-121, given its project's names and order of axes."""
    shapes = {}

    def convolution(name, inputs, outputs, size):
        shapes[name + arrays[0]] = kernel_shape(inputs, outputs, size)

    def norm(name, channels):
        shapes.update({name + array: (channels,) for array in arrays[1:]})

    convolution(stem[0], 3, 64, 7)
    norm(stem[1], 64)
    channels = 64
    for block, depth in enumerate((6, 12, 24, 16), start=1):
        for i in range(1, depth + 1):
            norm1, conv1, norm2, conv2 = layer(block, i)
            norm(norm1, channels)
            convolution(conv1, channels, 128, 1)
            norm(norm2, 128)
            convolution(conv2, 128, 32, 3)
            channels += 32
        norm(transition(block)[0], channels)
        if block < 4:
            convolution(transition(block)[1], channels, channels // 2, 1)
            channels //= 2
    return shapes


def torchvision_densenet121():
    return densenet121(
        lambda block, i: [
            f"features.denseblock{block}.denselayer{i}.{part}"
            for part in ("norm1", "conv1", "norm2", "conv2")
        ],
        lambda block: (
            [f"features.transition{block}.{part}" for part in ("norm", "conv")]
            if block < 4
            else ["features.norm5"]
        ),
        ("features.conv0", "features.norm0"),
        (".weight", ".weight", ".bias", ".running_mean", ".running_var"),
        lambda inputs, outputs, size: (outputs, inputs, size, size),
    )


def keras_densenet121():
    return densenet121(
        lambda block, i: [
            f"conv{block + 1}_block{i}_{part}" for part in ("0_bn", "1_conv", "1_bn", "2_conv")
        ],
        lambda block: [f"pool{block + 1}_bn", f"pool{block + 1}_conv"] if block < 4 else ["bn"],
        ("conv1/conv", "conv1/bn"),
        ("/kernel", "/gamma", "/beta", "/moving_mean", "/moving_variance"),
        lambda inputs, outputs, size: (size, size, inputs, outputs),
    )


def keras_resnet50():
    """From torchvision's: the names differ, and each convolution has a bias."""
    arrays = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
    shapes = {}
    for name, shape in torchvision_resnet(*RESNETS["resnet50"]).items():
        if name.startswith("fc") or name.endswith("tracked"):
            continue
        *block, layer, array = (
            name.replace("downsample.0", "conv0").replace("downsample.1", "bn0").split(".")
        )
        place = "conv1" if not block else f"conv{int(block[0][5:]) + 1}_block{int(block[1]) + 1}"
        kind, number = layer[:-1], layer[-1]
        module = f"{place}_{kind}" if not block else f"{place}_{number}_{kind}"
        if kind == "conv":
            outputs, inputs, *size = shape
            shapes[f"{module}/kernel"] = (*size, inputs, outputs)
            shapes[f"{module}/bias"] = (outputs,)
        else:
            shapes[f"{module}/{arrays.get(array, 'moving_variance')}"] = shape
    return shapes


def keras_vgg16():
    return {
        f"block{name[4]}_conv{name[6]}/{'kernel' if name.endswith('w') else 'bias'}": array.shape
        for name, array in vgg16_arrays().items()
    }


def numbered(shapes):
    """Arrays that hold their own number, from 1 on, so that a mix-up shows."""
    return {
        name: np.broadcast_to(np.float32(number), shape)
        for number, (name, shape) in enumerate(shapes.items(), start=1)
    }


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


# Of each family: its arrays, a backbone, its options, its convention, and where some arrays go.
FAMILIES = {
    "torchvision/alexnet": (
        torchvision_alexnet,
        ("alexnet", {}, "torchvision"),
        {"c3/conv3/kernel": "features.6.weight", "c5/conv5/bias": "features.10.bias"},
    ),
    "caffe/zf": (
        caffe_zf,
        ("zf", {}, "caffe"),
        {"c1/conv1/kernel": "conv1_w", "c4/conv4/bias": "conv4_b"},
    ),
    "torchvision/vgg16_bn": (
        torchvision_vgg16_bn,
        ("vgg16", {"norm": "frozen_batch_norm"}, "torchvision"),
        {
            "c3/conv3_2/conv/bias": "features.17.bias",
            "c3/conv3_2/norm/bias": "features.18.bias",
            "c5/conv5_3/norm/var": "features.41.running_var",
        },
    ),
    "torchvision/resnet": (
        lambda: torchvision_resnet(*RESNETS["resnet50"]),
        ("resnet50", {"output_stage": "c5"}, "torchvision"),
        {
            "c5/block3/conv2/conv/kernel": "layer4.2.conv2.weight",
            "c5/block1/shortcut/norm/mean": "layer4.0.downsample.1.running_mean",
            "c1/conv1/norm/scale": "bn1.weight",
        },
    ),
    "torchvision/densenet": (
        torchvision_densenet121,
        ("densenet121", {"output_stage": "c5"}, "torchvision"),
        {
            "c1/conv0/kernel": "features.conv0.weight",
            "c2/norm/mean": "features.transition1.norm.running_mean",
            "c3/transition/kernel": "features.transition1.conv.weight",
            "c4/layer24/norm2/scale": "features.denseblock3.denselayer24.norm2.weight",
            "c5/norm/var": "features.norm5.running_var",
        },
    ),
    "keras/vgg16": (
        keras_vgg16,
        ("vgg16", {}, "keras_caffe"),
        {"c4/conv4_1/kernel": "block4_conv1/kernel", "c5/conv5_3/bias": "block5_conv3/bias"},
    ),
    "keras/resnet": (
        keras_resnet50,
        ("resnet50", {"output_stage": "c5", "stride_in_1x1": True}, "keras_caffe"),
        {
            "c1/conv1/norm/scale": "conv1_bn/gamma",
            "c3/block1/shortcut/conv/kernel": "conv3_block1_0_conv/kernel",
            "c5/block2/conv3/norm/bias": "conv5_block2_3_bn/beta",
        },
    ),
    "keras/densenet": (
        keras_densenet121,
        ("densenet121", {"output_stage": "c5"}, "torchvision"),
        {
            "c1/norm0/bias": "conv1/bn/beta",
            "c2/norm/scale": "pool2_bn/gamma",
            "c4/transition/kernel": "pool3_conv/kernel",
            "c5/layer16/conv2/kernel": "conv5_block16_2_conv/kernel",
            "c5/norm/mean": "bn/moving_mean",
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_array_of_a_family_reaches_its_place(family):
    shapes, (backbone, options, convention), places = FAMILIES[family]
    arrays = numbered(shapes())
    loaded = load(arrays, backbone, convention, **options)
    leaves = {}
    for tree in loaded.collections.values():
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = "/".join(key.key for key in path)
            (leaves[name],) = np.unique(leaf)
    assert {name: leaves[name] for name in places} == {
        name: arrays[place].flat[0] for name, place in places.items()
    }
    biases = {name for name in arrays if family == "keras/resnet" and name.endswith("/bias")}
    assert len(leaves) == len(arrays) - len(loaded.unused) - len(biases) - sum(
        name.endswith("tracked") for name in arrays
    )
    assert set(loaded.unused) <= {"fc.weight", "fc.bias"}
    if biases:  # the mean of a convolution's norm takes its bias up
        mean, bias = (arrays[f"conv4_block6_2_{name}"] for name in ("bn/moving_mean", "conv/bias"))
        assert leaves["c4/block6/conv2/norm/mean"] == mean.flat[0] - bias.flat[0]


@pytest.mark.parametrize(
    ("family", "former", "present"),
    [
        (
            "torchvision/densenet",
            "features.denseblock2.denselayer11.norm.1.running_var",
            "features.denseblock2.denselayer11.norm1.running_var",
        ),
        ("keras/vgg16", "block3_conv2/block3_conv2_W_1", "block3_conv2/kernel"),
        ("keras/vgg16", "block3_conv2/block3_conv2_b_1", "block3_conv2/bias"),
        ("keras/vgg16", "block3_conv2/1", "block3_conv2/bias"),
        ("keras/resnet", "conv2_block1_0_bn/3", "conv2_block1_0_bn/moving_variance"),
        ("keras/resnet", "conv2_block1_0_conv/0", "conv2_block1_0_conv/kernel"),
        ("keras/densenet", "conv1_bn/0", "conv1/bn/gamma"),
        ("keras/densenet", "conv1_conv/kernel", "conv1/conv/kernel"),
        (
            "torchvision/fasterrcnn_resnet50_fpn",
            "backbone.fpn.layer_blocks.3.bias",
            "backbone.fpn.layer_blocks.3.0.bias",
        ),
        (
            "torchvision/fasterrcnn_resnet50_fpn",
            "rpn.head.conv.weight",
            "rpn.head.conv.0.0.weight",
        ),
    ],
)
def test_former_names(family, former, present):
    (layout,) = (layout for layout in LAYOUTS if layout.name == family)
    assert layout.present_name(former) == layout.present_name(present) == present


def test_another_epsilon_goes_into_the_variance():
    _, (backbone, options, convention), _ = FAMILIES["keras/densenet"]
    options = {**options, "output_stage": "c1"}
    arrays = numbered(keras_densenet121())
    arrays["conv1/bn/moving_variance"] = np.geomspace(1e-6, 1, 64, dtype=np.float32)
    loaded = load(arrays, backbone, convention, **options)
    variance = loaded.collections["batch_stats"]["c1"]["norm0"]["var"]
    np.testing.assert_allclose(
        variance + np.float32(1e-5), arrays["conv1/bn/moving_variance"] + 1.001e-5, rtol=1e-6
    )


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


def test_the_prefix_of_data_parallel_is_dropped():
    arrays = vgg16_arrays()
    _, named = recognize("w.npz", {f"module.{name}": array for name, array in arrays.items()})
    assert named.keys() == arrays.keys()


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
    assert "has a value that is not finite: conv3_2_b; give the weights of" in refusal(arrays)
