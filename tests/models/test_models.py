import math

import jax
import jax.numpy as jnp
import pytest

from rpn_jax.errors import UserError
from rpn_jax.models.backbones import BACKBONES
from rpn_jax.models.rcnn import build_rcnn


def output_shapes(model, height=64, width=96):
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    (logits, deltas), _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), images
    )
    return logits, deltas


@pytest.mark.parametrize(
    ("backbone", "dtype"),
    [
        *((name, "float32") for name in BACKBONES),
        *((name, "bfloat16") for name in ("zf", "vgg16", "resnet18", "densenet121")),
    ],
)
def test_every_backbone_makes_a_network_of_stride_16(backbone, dtype):
    model = build_rcnn(backbone=backbone, dtype=dtype, frozen_stages=2)
    (logits,), (deltas,) = output_shapes(model)
    assert model.strides == (16,)
    # 4 x 6 cells, but where pools or convolutions are padded otherwise than by half.
    grid_hw = {"alexnet": (3, 5), "zf": (5, 7)}.get(backbone, (4, 6))
    assert model.grid_hw(64, 96) == (grid_hw,)
    size = 9 * math.prod(grid_hw)
    assert (logits.shape, deltas.shape) == ((1, size), (1, size, 4))
    assert logits.dtype == deltas.dtype == jnp.float32


@pytest.mark.parametrize(
    ("backbone", "strides", "height", "width"),
    [
        ("resnet18", (4, 8, 16, 32, 64), 64, 96),
        ("resnet18", (4, 8, 16, 32, 64), 61, 75),
        ("vgg16", (2, 4, 8, 16, 32), 61, 75),
        ("densenet121", (4, 8, 16, 32, 64), 93, 126),
    ],
)
def test_a_neck_makes_a_network_of_five_levels(backbone, strides, height, width):
    model = build_rcnn(backbone=backbone, neck="fpn", num_anchors=3, frozen_stages=5)
    logits, deltas = output_shapes(model, height, width)
    assert model.strides == strides
    grids = model.grid_hw(height, width)
    assert [level.shape for level in logits] == [(1, 3 * rows * cols) for rows, cols in grids]
    assert [level.shape for level in deltas] == [(1, 3 * rows * cols, 4) for rows, cols in grids]


@pytest.mark.parametrize(
    ("options", "stride"),
    [
        ({"output_stage": "c3"}, 8),
        ({"stem": "small"}, 8),
        ({"stem": "small", "output_stage": "c3"}, 4),
        ({"output_stage": "c5", "norm": "group_norm"}, 32),
        ({"dilate_c5": True}, 16),
        ({"dilate_c5": True, "output_stage": "c5", "stem": "small"}, 8),
    ],
)
def test_strides_follow_stage_and_stem(options, stride):
    model = build_rcnn(backbone="resnet18", num_anchors=2, objectness="softmax", **options)
    (logits,), _ = output_shapes(model)
    assert model.strides == (stride,)
    assert model.grid_hw(64, 96) == ((64 // stride, 96 // stride),)
    assert logits.shape == (1, 64 * 96 // stride**2 * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg19"}, r"model\.backbone: 'vgg19' is unknown; use one of alexnet, zf"),
        ({"output_stage": "p2"}, r"model\.output_stage: 'p2' is unknown; use one of c1, c2"),
        ({"dtype": "float16"}, r"model\.dtype: 'float16'.*float32, bfloat16"),
        ({"objectness": "both"}, r"model\.objectness: 'both'.*sigmoid, softmax"),
        (
            {"backbone": "zf", "norm": "group_norm"},
            r"model\.norm: zf has no such option; .* to one of vgg16, resnet18, .*, densenet121$",
        ),
        (
            {"stride_in_1x1": False},
            r"model\.stride_in_1x1: vgg16 has no .* one of resnet18, .*32x8d$",
        ),
        ({"dilate_c5": True}, r"model\.dilate_c5: vgg16 has no such option"),
        (
            {"backbone": "resnet18", "ceil_pools": True},
            r"model\.ceil_pools: resnet18 has no such option; .* to one of alexnet, zf, vgg16$",
        ),
        (
            {"backbone": "resnet18", "dilate_c5": True, "output_stage": "c4"},
            r"model\.dilate_c5: c5 is not computed with config\.model\.output_stage='c4'",
        ),
        ({"backbone": "resnet18", "neck": "pan"}, r"model\.neck: 'pan' is unknown; use one of fpn"),
        (
            {"backbone": "resnet18", "neck": "fpn", "output_stage": "c4"},
            r"model\.output_stage: is 'c4', but with config\.model\.neck='fpn'",
        ),
        (
            {"backbone": "resnet18", "neck": "fpn", "dilate_c5": True},
            r"model\.dilate_c5: is True, but with config\.model\.neck='fpn'",
        ),
        (
            {"backbone": "alexnet", "neck": "fpn"},
            r"model\.neck: the stages c2, c3, c4, c5 of alexnet have strides 8, 16, 16, 16",
        ),
        ({"backbone": "resnet18", "norm": "bn"}, r"model\.norm: 'bn'.*frozen_batch_norm"),
        ({"backbone": "resnet18", "stem": "big"}, r"model\.stem: 'big'.*imagenet, small"),
        ({"frozen_stages": 6}, r"model\.frozen_stages: is 6.*vgg16 up to c5 has 5.*0 to 5"),
        ({"frozen_stages": -1}, r"model\.frozen_stages: is -1"),
        ({"output_stage": "c2", "frozen_stages": 3}, r"model\.frozen_stages: is 3.*c2 has 2"),
    ],
)
def test_what_cannot_be_built_is_refused_by_field(options, message):
    with pytest.raises(UserError, match=message):
        build_rcnn(**options)
