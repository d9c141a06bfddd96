import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_stages import step_beyond_the_first_stage

from rpn_jax.models.backbones import densenet
from rpn_jax.models.backbones.densenet import DenseNet
from rpn_jax.models.receptive_field import rows_seen

STAGES = ("c1", "c2", "c3", "c4", "c5")


def shapes(model, height=64, width=64):
    image = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 75), (70, 117)])
def test_strides_and_grid_describe_the_outputs(height, width):
    model = DenseNet(output_stages=STAGES)
    outputs, _ = shapes(model, height, width)
    assert model.strides == (4, 4, 8, 16, 32)
    assert tuple(output.shape[1:3] for output in outputs) == model.grid_hw(height, width)
    assert [output.shape[3] for output in outputs] == [64, 256, 512, 1024, 1024]


def test_it_is_the_published_network():
    _, variables = shapes(DenseNet(norm="sync_batch_norm", output_stages=("c5",)))
    # torchvision 0.28: sum(p.numel() for p in densenet121().features.parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 6_953_856


def test_where_its_cells_are_centred():
    variables = shapes(DenseNet())[1]

    def features(images):
        return DenseNet().apply(jax.tree.map(lambda v: jnp.zeros(v.shape), variables), images)

    (c4,) = rows_seen(features, jax.ShapeDtypeStruct((1, 2048, 64, 3), jnp.float32))
    assert c4.extent < 1100
    assert (c4.first[0, 64, 0, 0] + c4.last[0, 64, 0, 0]) / 2 + 0.5 == 16 * 64 + 6.5


def test_frozen_stages_keep_their_statistics_and_get_no_gradient_in_bfloat16(
    random_variables, monkeypatch
):
    monkeypatch.setitem(densenet.STAGES, "c2", 1)  # all six layers take long to compile
    model = DenseNet(
        norm="sync_batch_norm", frozen_stages=1, output_stages=("c2",), dtype=jnp.bfloat16
    )
    images = np.random.default_rng(1).normal(size=(2, 1, 16, 16, 3)).astype(np.float32)
    variables = random_variables(model, images[0])
    gradients, changed = step_beyond_the_first_stage(model, variables, images)
    assert all(jax.tree.leaves(changed["c2"]))
    for leaf in jax.tree.leaves(gradients["c2"]):
        assert np.isfinite(leaf).all()
        assert (leaf != 0).any()
