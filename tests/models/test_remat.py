"""Stages that are run again in the backward pass: less is kept for it, nothing else changes."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from rpn_jax.models.rcnn import build_rcnn

IMAGES = jax.ShapeDtypeStruct((1, 96, 128, 3), jnp.float32)


def variables_of(network):
    return jax.eval_shape(lambda x: network.init(jax.random.key(0), x), IMAGES)


def size(tree):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def bytes_kept(network, variables):
    """Returns the bytes of maps that the forward pass of training keeps for the backward pass."""

    def backward(variables, images):
        def features(params):
            return network.apply({**variables, "params": params}, images, train=True)

        # The function that computes the gradient is a tree of what was kept.
        return jax.vjp(features, variables["params"])[1]

    return size(jax.eval_shape(backward, variables, IMAGES)) - size(variables)


@pytest.mark.parametrize(
    ("backbone", "output_stage", "share"),
    [
        ("vgg16", "c4", 0.4),
        ("resnet50", "c3", 0.4),
        ("densenet121", "c2", 0.4),
        ("alexnet", "c5", 0.5),  # small maps, beside which the image counts
        ("zf", "c5", 0.4),
    ],
)
def test_every_backbone_keeps_less_and_the_same_variables(backbone, output_stage, share):
    plain, remat = (
        build_rcnn(backbone=backbone, output_stage=output_stage, head_channels=8, remat=remat)
        for remat in (False, True)
    )
    variables = variables_of(plain)
    assert variables_of(remat) == variables
    assert bytes_kept(remat, variables) < share * bytes_kept(plain, variables)


def test_frozen_stages_and_evaluation_run_as_without():
    def program(remat, train):
        network = build_rcnn(
            backbone="alexnet", frozen_stages=2, output_stage="c4", head_channels=8, remat=remat
        )
        apply = functools.partial(network.apply, train=train)
        return str(jax.make_jaxpr(apply)(variables_of(network), IMAGES))

    assert program(True, train=False) == program(False, train=False)
    assert program(True, train=True).count("remat2[") == 2  # c3 and c4
