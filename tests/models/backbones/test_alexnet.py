import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpn_jax.models.backbones.alexnet import AlexNet
from rpn_jax.models.receptive_field import rows_seen

STAGES = ("c1", "c2", "c3", "c4", "c5")


def shapes(model, height, width):
    image = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


@pytest.mark.parametrize("ceil_pools", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 75), (63, 224)])
def test_strides_and_grid_describe_the_outputs(height, width, ceil_pools):
    model = AlexNet(output_stages=STAGES, ceil_pools=ceil_pools)
    outputs, _ = shapes(model, height, width)
    assert model.strides == (4, 8, 16, 16, 16)
    assert tuple(output.shape[1:3] for output in outputs) == model.grid_hw(height, width)
    assert [output.shape[3] for output in outputs] == [64, 192, 384, 256, 256]


def test_it_is_the_published_network():
    (output,), variables = shapes(AlexNet(), 224, 224)
    assert output.shape == (2, 13, 13, 256)
    # torchvision 0.28: sum(p.numel() for p in alexnet().features.parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 2_469_696


def test_where_its_cells_are_centred():
    model = AlexNet(output_stages=("c2", "c5"))
    variables = shapes(model, 64, 64)[1]

    def features(images):
        return model.apply(jax.tree.map(lambda v: jnp.zeros(v.shape), variables), images)

    c2, c5 = rows_seen(features, jax.ShapeDtypeStruct((1, 1024, 64, 3), jnp.float32))
    for rows, stride, first in ((c2, 8, 7.5), (c5, 16, 15.5)):
        middle = rows.first.shape[1] // 2  # away from the border
        centre = (rows.first[0, middle, 0, 0] + rows.last[0, middle, 0, 0]) / 2 + 0.5
        assert centre == stride * middle + first


def test_frozen_stages_get_no_gradient_in_bfloat16(random_variables):
    model = AlexNet(frozen_stages=1, output_stages=("c1", "c2"), dtype=jnp.bfloat16)
    image = np.random.default_rng(0).normal(size=(1, 35, 43, 3)).astype(np.float32)
    params = random_variables(model, image)["params"]

    def loss(params):
        c1, c2 = model.apply({"params": params}, image)
        return (c1.astype(jnp.float32) ** 2).sum() + (c2.astype(jnp.float32) ** 2).sum(), c2

    gradients, c2 = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert c2.dtype == jnp.bfloat16
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["c1"]))
    for leaf in jax.tree.leaves(gradients["c2"]):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert (leaf != 0).any()
