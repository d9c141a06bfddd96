"""Networks as accelerators run them: nothing in the program is there for a CPU's sake."""

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util
from programs import ACCELERATORS, operations

from rpn_jax.models.rcnn import build_rcnn

IMAGES = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
NETWORKS = {
    "resnet18": {"backbone": "resnet18", "norm": "sync_batch_norm", "output_stage": "c3"},
    "zf": {"backbone": "zf", "objectness": "softmax", "frozen_stages": 1},
}


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_all_that_has_a_kernel_is_a_convolution(options):
    network = build_rcnn(**options)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), IMAGES)

    def loss(params, variables, images):
        outputs, _ = network.apply(
            {**variables, "params": params}, images, True, mutable=["batch_stats"]
        )
        return sum((output**2).sum() for output in jax.tree.leaves(outputs))

    gradient = jax.vmap(jax.grad(loss), in_axes=(None, None, 0), axis_name="data")
    images = jax.ShapeDtypeStruct((1, *IMAGES.shape), IMAGES.dtype)
    predict = operations(network.apply, variables, IMAGES)
    train = operations(gradient, variables["params"], variables, images)
    paths = traverse_util.flatten_dict(variables["params"])
    kernels = [path for path in paths if path[-1] == "kernel"]
    shared = sum(path[0] not in ("backbone", "neck") for path in kernels)  # by the levels
    for platform in ACCELERATORS:
        expected = len(kernels) + (len(network.strides) - 1) * shared
        assert predict[platform]["convolution"] == expected
        assert train[platform]["convolution"] > expected
        for program in (predict[platform], train[platform]):
            assert not program["dot_general"]
            assert not program["while"]
