"""A backbone with seeded weights beside torchvision's features of those weights."""

import jax
import numpy as np
from peer_cases import FIXTURES
from seeded_weights import seeded_array, seeded_image

IN_TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def assert_features_equal_torchvisions(model, name, torch_module):
    """Holds `model` against the file of scripts/peer_fixtures.py, on an odd and an even size.

    `torch_module` takes the path of a module, such as ("c1", "conv1"), and returns what torchvision
    calls it.
    """

    def seeded(path, leaf):
        _, *module, array = (key.key for key in path)
        shape = leaf.shape
        if len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        values = seeded_array(f"{torch_module(tuple(module))}.{IN_TORCH[array]}", shape)
        return values.transpose(2, 3, 1, 0) if len(shape) == 4 else values

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), seeded_image(64, 64)[None]))
    variables = jax.tree_util.tree_map_with_path(seeded, shapes)
    run = jax.jit(model.apply)
    with np.load(FIXTURES / f"{name}_features.npz") as file:
        assert set(file) == {"61x75", "64x96"}
        for size, expected in file.items():
            (features,) = run(variables, seeded_image(*map(int, size.split("x")))[None])
            scale = np.abs(expected).max()
            assert expected.std() > 0.01 * scale
            np.testing.assert_allclose(features[0], expected, rtol=0, atol=1e-4 * scale)
