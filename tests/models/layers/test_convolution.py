"""The convolution against `lax`, in value and gradient, in every transformation."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import export, lax
from maps import NHWC, assert_close, normal, same_3x3, value_and_gradients
from programs import ACCELERATORS, operations

from rpn_jax.models.layers.convolution import Conv, conv_general_dilated, promote_dtype
from rpn_jax.models.layers.pooling import max_pool

PLATFORMS = ("cpu", *ACCELERATORS)


@pytest.mark.parametrize(
    ("images", "height", "width", "channels", "features"),
    [
        (1, 1, 1, 32, 32),
        (3, 6, 9, 32, 40),
        (2, 37, 50, 32, 32),  # two bands of tile rows, the second not full
    ],
)
def test_winograd_equals_lax_in_value_and_gradients(images, height, width, channels, features):
    x, kernel = normal(0, images, height, width, channels), normal(1, 3, 3, channels, features)
    got, expected = (
        jax.jit(functools.partial(value_and_gradients, functools.partial(same_3x3, conv)))(
            x, kernel
        )
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert_close(got, expected)


@pytest.mark.parametrize("window", [(3, 3), (1, 1)])
def test_a_convolution_of_bfloat16_is_that_of_float32_rounded(window):
    x, kernel, dy = (
        normal(seed, *shape).astype(jnp.bfloat16)
        for seed, shape in enumerate([(2, 9, 6, 32), (*window, 32, 40), (2, 9, 6, 40)])
    )

    def run(x, kernel, dy):
        y, pullback = jax.vjp(functools.partial(same_3x3, conv_general_dilated), x, kernel)
        return y, *pullback(dy)

    expected = jax.jit(run)(*(a.astype(jnp.float32) for a in (x, kernel, dy)))
    got = jax.jit(run)(x, kernel, dy)
    # One rounding is 2^-9 of a value at most; values next to it may round the other way.
    assert_close(got, [a.astype(jnp.bfloat16) for a in expected], 2**-8)


@pytest.mark.parametrize(("height", "width"), [(17, 22), (1, 1)])
@pytest.mark.parametrize(("window", "stride", "pad"), [(7, 2, 3), (3, 1, 1)])
def test_a_first_convolution_equals_lax_in_value_and_gradients(height, width, window, stride, pad):
    x, kernel = normal(0, 2, height, width, 3), normal(1, window, window, 3, 8)

    def run(conv):
        pads = ((pad, pad), (pad, pad))
        strided = functools.partial(
            conv, window_strides=(stride, stride), padding=pads, dimension_numbers=NHWC
        )
        return jax.jit(functools.partial(value_and_gradients, strided))(x, kernel)

    assert_close(run(conv_general_dilated), run(lax.conv_general_dilated))


@pytest.mark.parametrize(("height", "width"), [(17, 22), (8, 11), (5, 6)])
@pytest.mark.parametrize(("window", "stride", "pad"), [(3, 2, 1), (5, 2, 0), (5, 3, 2), (2, 3, 1)])
def test_a_strided_convolution_equals_lax_in_value_and_gradients(
    height, width, window, stride, pad
):
    x, kernel = normal(0, 2, height, width, 32), normal(1, window, window, 32, 40)

    def run(conv):
        strided = functools.partial(
            conv,
            window_strides=(stride, stride),
            padding=((pad, pad), (pad, pad)),
            dimension_numbers=NHWC,
        )
        step = jax.jit(functools.partial(value_and_gradients, strided))
        return step(x, kernel), step.lower(x, kernel).compile().as_text()

    (got, program), (expected, _) = run(conv_general_dilated), run(lax.conv_general_dilated)
    assert_close(got, expected)
    assert " convolution(" not in program


def test_gradients_that_come_together_are_the_same():
    def loss(x, kernel, bias, promote):
        x, kernel, bias = promote(x, kernel, bias, dtype=jnp.float32)
        return jnp.sin(same_3x3(conv_general_dilated, x, kernel) + bias[None, None, None]).sum()

    arguments = normal(0, 1, 8, 8, 32), normal(1, 3, 3, 32, 32), normal(2, 32)
    got, expected = (
        jax.jit(jax.grad(functools.partial(loss, promote=promote), argnums=(0, 1, 2)))(*arguments)
        for promote in (promote_dtype, nn.dtypes.promote_dtype)
    )
    assert_close(got, expected, 1e-6)
    without_bias = promote_dtype(*arguments[:2], None, dtype=jnp.bfloat16)
    assert [a.dtype for a in without_bias[:2]] == [jnp.bfloat16] * 2
    assert without_bias[2] is None


def test_an_unwanted_gradient_costs_nothing():
    x, kernel = normal(0, 1, 8, 8, 32), normal(1, 3, 3, 32, 32)

    def loss(x, kernel):
        return same_3x3(conv_general_dilated, x, kernel).sum()

    flops = {
        argnums: jax.jit(jax.grad(loss, argnums))
        .lower(x, kernel)
        .compile()
        .cost_analysis()["flops"]
        for argnums in (0, 1, (0, 1))
    }
    assert max(flops[0], flops[1]) < 0.7 * flops[(0, 1)]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_platform_gets_its_own_program(platform):
    def loss(x, kernel):
        return max_pool(same_3x3(conv_general_dilated, x, kernel)).sum()

    x, kernel = normal(0, 1, 8, 8, 32), normal(1, 3, 3, 32, 32)
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    program = export.export(gradient, platforms=[platform])(x, kernel).mlir_module()
    assert ("stablehlo.convolution" in program) == (platform != "cpu")
    # Whose sums have no fixed order on a GPU: a deterministic program must not have it there.
    assert ("stablehlo.select_and_scatter" in program) == (platform == "tpu")


def test_one_export_serves_several_platforms():
    x, kernel = normal(0, 1, 5, 6, 32), normal(1, 3, 3, 32, 32)
    function = jax.jit(functools.partial(same_3x3, conv_general_dilated))
    exported = export.export(function, platforms=PLATFORMS)(x, kernel)
    assert_close(exported.call(x, kernel), same_3x3(lax.conv_general_dilated, x, kernel))


def test_vmap_pmap_and_a_second_derivative_agree_with_lax():
    x, kernel = normal(0, 2, 1, 5, 6, 32), normal(1, 3, 3, 32, 32)

    def loss(conv, kernel, x):
        return (same_3x3(conv, x, kernel) ** 2).sum()

    def gradient_norm(conv, kernel, x):
        return (jax.grad(loss, 1)(conv, kernel, x) ** 2).sum()

    for transform in (jax.vmap, functools.partial(jax.pmap, devices=jax.local_devices()[:2])):
        got, expected = (
            transform(functools.partial(jax.value_and_grad(loss, 1), conv), in_axes=(None, 0))(
                kernel, x
            )
            for conv in (conv_general_dilated, lax.conv_general_dilated)
        )
        assert_close(got, expected)
    got, expected = (
        jax.jit(functools.partial(jax.grad(gradient_norm, 1), conv))(kernel, x[0])
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert_close(got, expected)


LAYERS = [
    ({"features": 8, "kernel_size": (1, 1)}, 5),
    ({"features": 8, "kernel_size": (1, 1), "strides": 2}, 5),
    ({"features": 8, "kernel_size": (1, 1), "strides": (2, 1)}, 5),
    ({"features": 8, "kernel_size": (1, 1), "padding": 1}, 5),
    ({"features": 32, "kernel_size": (3, 3)}, 3),
    ({"features": 32, "kernel_size": (3, 3), "padding": "VALID"}, 32),
    ({"features": 32, "kernel_size": (3, 3), "strides": 2, "padding": 1}, 32),
    ({"features": 32, "kernel_size": (3, 3), "kernel_dilation": 2}, 32),
    ({"features": 32, "kernel_size": (3, 3), "input_dilation": 2, "padding": 1}, 32),
    ({"features": 64, "kernel_size": (3, 3), "feature_group_count": 2}, 64),
    ({"features": 32, "kernel_size": (3, 3), "padding": 1, "dtype": jnp.float16}, 32),
    ({"features": 8, "kernel_size": (7, 7), "strides": 2, "padding": 3}, 3),
]


def gradients_of(conv, variables, x):
    def loss(variables, x):
        return (conv.apply(variables, x) ** 2).sum().astype("float32")

    return jax.value_and_grad(loss, argnums=(0, 1))(variables, x)


@pytest.mark.parametrize(("layer", "channels"), LAYERS, ids=str)
def test_every_kind_of_layer_equals_flax(layer, channels):
    x = normal(0, 1, 7, 10, channels)
    ours, flaxs = Conv(**layer), nn.Conv(**layer)
    variables = flaxs.init(jax.random.key(1), x)
    got, expected = (
        jax.jit(functools.partial(gradients_of, conv))(variables, x) for conv in (ours, flaxs)
    )
    assert_close(got, expected)


@pytest.mark.parametrize(("layer", "channels"), LAYERS, ids=str)
def test_every_kind_of_layer_is_flaxs_on_an_accelerator(layer, channels):
    x = jax.ShapeDtypeStruct((1, 7, 10, channels), jnp.float32)
    variables = jax.eval_shape(nn.Conv(**layer).init, jax.random.key(0), x)
    ours, flaxs = (
        operations(functools.partial(gradients_of, conv), variables, x)
        for conv in (Conv(**layer), nn.Conv(**layer))
    )
    for platform in ACCELERATORS:
        for name in ("case", "constant", "return"):  # the choice of the platform
            ours[platform].pop(name, None), flaxs[platform].pop(name, None)
        assert ours[platform] == flaxs[platform]


def test_a_mistaken_shape_gets_the_message_of_lax():
    with pytest.raises(ValueError, match="feature dimension"):
        same_3x3(conv_general_dilated, normal(0, 1, 4, 4, 32), normal(1, 3, 3, 33, 32))
