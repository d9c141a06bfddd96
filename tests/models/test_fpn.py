import functools

import jax
import jax.numpy as jnp
import numpy as np
import peer_cases
import pytest
from seeded_weights import seeded_array

from rpn_jax.models.backbones.resnet import ResNet
from rpn_jax.models.fpn import FPN, STAGES
from rpn_jax.models.rcnn import RCNN
from rpn_jax.models.rpn_head import RPNHead

WIDTH = 16  # of the fixture's levels


def torchvision_params():
    """The parameters that the fixture was made with, under our names."""
    params = {}
    for number, channels in enumerate(peer_cases.FPN_CHANNELS, start=2):
        layers = {
            f"lateral{number}": (f"inner_blocks.{number - 2}.0", channels, 1),
            f"output{number}": (f"layer_blocks.{number - 2}.0", WIDTH, 3),
        }
        for ours, (theirs, inputs, size) in layers.items():
            kernel = seeded_array(f"{theirs}.weight", (WIDTH, inputs, size, size))
            bias = seeded_array(f"{theirs}.bias", (WIDTH,))
            params[ours] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
    return {"params": params}


def features_of(name):
    return tuple(feature[None] for feature in peer_cases.stage_features(name))


@pytest.mark.parametrize("name", peer_cases.FPN_GRIDS)
def test_levels_equal_torchvisions(name):
    levels = jax.jit(FPN(WIDTH).apply)(torchvision_params(), features_of(name))
    answers = peer_cases.peer_answers("fpn")
    assert len(levels) == 5
    for number, level in enumerate(levels, start=2):
        expected = answers[f"{name}/p{number}"]
        scale = np.abs(expected).max()
        assert expected.std() > 0.1 * scale
        np.testing.assert_allclose(level[0], expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", peer_cases.FPN_GRIDS)
def test_strides_and_grids_describe_the_levels(name):
    neck, features = FPN(WIDTH), features_of(name)
    levels = jax.eval_shape(neck.apply, torchvision_params(), features)
    grids = neck.grid_hw(peer_cases.FPN_GRIDS[name])
    assert tuple(level.shape[1:] for level in levels) == tuple((*grid, WIDTH) for grid in grids)
    assert neck.strides((4, 8, 16, 32)) == (4, 8, 16, 32, 64)


def test_what_an_untrained_neck_begins_with():
    variables = jax.jit(FPN(64).init)(jax.random.key(0, impl="rbg"), features_of("64x96"))
    for name, layer in variables["params"].items():
        np.testing.assert_array_equal(layer["bias"], 0)
        kernel = np.asarray(layer["kernel"])
        # Uniform within sqrt(3 / fan_in), so of variance 1 / fan_in: maps keep their scale.
        limit = np.sqrt(3 / np.prod(kernel.shape[:-1]))
        assert 0.9 * limit < np.abs(kernel).max() <= limit, name


def test_bfloat16_computes_nearly_the_same():
    features = features_of("61x75")
    levels = jax.jit(FPN(WIDTH, jnp.bfloat16).apply)(torchvision_params(), features)
    for level, exact in zip(levels, FPN(WIDTH).apply(torchvision_params(), features), strict=True):
        assert level.dtype == jnp.bfloat16
        assert float(jnp.abs(level - exact).max()) < 0.03 * float(jnp.abs(exact).max())


def test_under_a_neck_frozen_stages_get_no_gradient_and_the_others_do(random_variables):
    network = RCNN(
        ResNet(
            depths=(1, 1, 1, 1),
            bottleneck=False,
            stem="small",
            frozen_stages=2,
            output_stages=STAGES,
        ),
        RPNHead(num_anchors=1, channels=8),
        FPN(8),
    )
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    variables = random_variables(network, images)

    def loss(params):
        logits, deltas = network.apply({**variables, "params": params}, images)
        return sum((level**2).sum() for level in (*logits, *deltas))

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for stage, leaves in gradients["backbone"].items():
        has_gradient = [(leaf != 0).any() for leaf in jax.tree.leaves(leaves)]
        assert set(map(bool, has_gradient)) == {stage not in ("c1", "c2")}
    for part in ("neck", "rpn"):
        jax.tree.map(functools.partial(assert_some_gradient, part), gradients[part])


def assert_some_gradient(part, leaf):
    assert (leaf != 0).any(), part
