"""Every backbone with seeded weights, read as from a file of torchvision's, and its features."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from peer_cases import BACKBONES, FEATURES_EVERY, FEATURES_HW, peer_answers
from seeded_weights import seeded_array, seeded_image

from rpn_jax.models.rcnn import build_rcnn
from rpn_jax.weights.layouts import LAYOUTS
from rpn_jax.weights.loading import load_parts, recognize

ANSWERS = peer_answers("features")
FIRST_OF_FAMILY = ("alexnet", "vgg16", "resnet18", "resnet50", "resnet50_dilated", "densenet121")


def seeded_file(layout, shapes):
    """The arrays that a file of the layout has for a backbone of those shapes."""
    leaves = {
        ("backbone", *leaf): array.shape
        for tree in shapes.values()
        for leaf, array in traverse_util.flatten_dict(tree.get("backbone", {})).items()
    }
    axes = np.argsort(layout.dialect.kernel_axes)
    return {
        name: seeded_array(name, tuple(shape[i] for i in axes) if len(shape) == 4 else shape)
        for leaf, shape in leaves.items()
        if (name := layout.array_name(leaf))
    }


def layout_of(name):
    family = {"densenet121": "densenet"}.get(name, "resnet" if name.startswith("res") else name)
    (layout,) = (layout for layout in LAYOUTS if layout.name == f"torchvision/{family}")
    return layout


def backbone_of(collections):
    return {name: tree["backbone"] for name, tree in collections.items()}


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_torchvisions(name):
    network = build_rcnn(**BACKBONES[name], head_channels=8)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    arrays = seeded_file(layout_of(name), shapes)
    layout, arrays = recognize(name, arrays)
    collections = load_parts(name, layout, arrays, network, shapes, "torchvision").collections
    run = jax.jit(network.backbone.apply)
    # A deeper network of a family has the strides and pools of the first.
    sizes = FEATURES_HW if name in FIRST_OF_FAMILY else FEATURES_HW[:1]
    for height, width in sizes:
        (features,) = run(backbone_of(collections), seeded_image(height, width)[None])
        expected = ANSWERS[f"{name}/{height}x{width}"]
        scale = np.abs(expected).max()
        assert expected.std() > 0.01 * scale
        np.testing.assert_allclose(
            features[0, ..., ::FEATURES_EVERY], expected, rtol=0, atol=1e-4 * scale
        )
