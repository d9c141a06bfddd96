import jax
import jax.numpy as jnp
import pytest

from rpn_jax.errors import UserError
from rpn_jax.models import BACKBONES, build_rpn


def output_shapes(model, height=64, width=96):
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    (logits, deltas), _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), images
    )
    return logits, deltas


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_backbone_makes_a_network_of_stride_16(backbone, dtype):
    model = build_rpn(backbone=backbone, dtype=dtype, frozen_stages=2)
    (logits,), (deltas,) = output_shapes(model)
    assert model.strides == (16,)
    assert (logits.shape, deltas.shape) == ((1, 4 * 6 * 9), (1, 4 * 6 * 9, 4))
    assert logits.dtype == deltas.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "stride"),
    [
        ({"output_stage": "c3"}, 8),
        ({"stem": "small"}, 8),
        ({"stem": "small", "output_stage": "c3"}, 4),
        ({"output_stage": "c5", "norm": "group_norm"}, 32),
    ],
)
def test_strides_follow_stage_and_stem(options, stride):
    model = build_rpn(backbone="resnet18", num_anchors=2, objectness="softmax", **options)
    (logits,), _ = output_shapes(model)
    assert model.strides == (stride,)
    assert model.grid_hw(64, 96) == ((64 // stride, 96 // stride),)
    assert logits.shape == (1, 64 * 96 // stride**2 * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg19"}, r"model\.backbone: 'vgg19' is unknown; use one of vgg16, resnet18"),
        ({"output_stage": "p2"}, r"model\.output_stage: 'p2' is unknown; use one of c1, c2"),
        ({"dtype": "float16"}, r"model\.dtype: 'float16'.*float32, bfloat16"),
        ({"objectness": "both"}, r"model\.objectness: 'both'.*sigmoid, softmax"),
        ({"norm": "group_norm"}, r"model\.norm: vgg16 has no such option"),
        ({"stride_in_1x1": False}, r"model\.stride_in_1x1: vgg16 has no such option"),
        ({"backbone": "resnet18", "norm": "bn"}, r"model\.norm: 'bn'.*frozen_batch_norm"),
        ({"backbone": "resnet18", "stem": "big"}, r"model\.stem: 'big'.*imagenet, small"),
        ({"frozen_stages": 6}, r"model\.frozen_stages: is 6.*vgg16 up to c5 has 5.*0 to 5"),
        ({"frozen_stages": -1}, r"model\.frozen_stages: is -1"),
        ({"output_stage": "c2", "frozen_stages": 3}, r"model\.frozen_stages: is 3.*c2 has 2"),
    ],
)
def test_what_cannot_be_built_is_refused_by_field(options, message):
    with pytest.raises(UserError, match=message):
        build_rpn(**options)
