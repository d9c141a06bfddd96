"""Variables drawn by NumPy: XLA takes seconds to compile the random numbers of an `init`."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_variables():
    """A function from a module and its arguments to variables: kernels He-normal, norms neutral."""

    def draw(module, *args):
        generator = np.random.default_rng(0)

        def leaf(path, shape):
            name = path[-1].key
            if name == "kernel":
                deviation = np.sqrt(2 / np.prod(shape.shape[:-1]))
                return generator.normal(scale=deviation, size=shape.shape).astype(shape.dtype)
            return np.full(shape.shape, name in ("scale", "var"), shape.dtype)

        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return draw
