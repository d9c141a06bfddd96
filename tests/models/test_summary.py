import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from rpn_jax.models.rcnn import RCNN, build_rcnn
from rpn_jax.models.rpn_head import RPNHead
from rpn_jax.models.summary import summarize


def column(layers, field):
    return [getattr(layer, field) for layer in layers]


def test_vgg_on_the_papers_image():
    network = build_rcnn(objectness="softmax")
    layers = summarize(network, 600, 1000, frozen_stages=2)
    assert column(layers, "name") == [
        *(f"backbone/c{i}" for i in range(1, 6)),
        "rpn/conv",
        "rpn/deltas",
        "rpn/objectness",
    ]
    assert column(layers, "shape") == [
        (600, 1000, 64),
        (300, 500, 128),
        (150, 250, 256),
        (75, 125, 512),
        (37, 62, 512),
        (37, 62, 512),
        (37, 62, 36),
        (37, 62, 18),
    ]
    assert column(layers, "stride") == [1, 2, 4, 8, 16, 16, 16, 16]
    # Section 3.1 of the paper: 228 pixels for the 3x3 window on conv5_3; 196 = 228 - 2 * 16.
    assert column(layers, "receptive_field") == [5, 14, 40, 92, 196, 228, 228, 228]
    assert column(layers, "frozen") == [True, True, *[False] * 6]
    # conv1_1 has 3*3*3*64 + 64, conv1_2 3*3*64*64 + 64.
    assert layers[0].parameters == 1792 + 36_928
    assert layers[0].weights == 1728 + 36_864
    assert layers[0].flops == 2 * 600 * 1000 * (1728 + 36_864)
    assert column(layers[6:], "weights") == [512 * 4 * 9, 512 * 2 * 9]


@pytest.mark.parametrize(
    ("backbone", "multiply_adds"),
    [
        # torchvision since 0.15, weights.meta["_ops"] in 1e9, less the fully connected layers:
        ("vgg16", 15.470 - 0.124),  # 25088*4096 + 4096*4096 + 4096*1000
        ("resnet18", 1.814 - 0.001),  # 512*1000
        ("resnet50", 4.089 - 0.002),  # 2048*1000
    ],
)
def test_flops_are_torchvisions(backbone, multiply_adds):
    layers = summarize(build_rcnn(backbone=backbone, output_stage="c5"), 224, 224)
    of_backbone = sum(layer.flops for layer in layers if layer.name.startswith("backbone"))
    assert of_backbone / 2e9 == pytest.approx(multiply_adds, abs=0.002)


def fields_of_resnet(depths, windows, stem):
    """The recurrence over windows (size, stride) of the longest path, at the end of each stage."""
    extent, step = 1, 1
    for stage, depth in enumerate((1, *depths)):
        for block in range(depth):
            stride = 2 if stage > 1 and block == 0 else 1
            for size, strides in stem if stage == 0 else windows:
                extent += (size - 1) * step
                step *= stride if strides is None else strides
        yield extent


@pytest.mark.parametrize(
    ("options", "depths", "windows"),
    [
        # Where None stands, the first block of c3, c4 and c5 strides by 2.
        ({"backbone": "resnet18"}, (2, 2, 2, 2), [(3, None), (3, 1)]),
        ({"backbone": "resnet50"}, (3, 4, 6, 3), [(1, 1), (3, None), (1, 1)]),
        ({"backbone": "resnet50", "stride_in_1x1": True}, (3, 4, 6, 3), [(1, None), (3, 1)]),
        ({"backbone": "resnet18", "stem": "small"}, (2, 2, 2, 2), [(3, None), (3, 1)]),
        ({"backbone": "resnet18", "norm": "group_norm"}, (2, 2, 2, 2), [(3, None), (3, 1)]),
        ({"backbone": "resnet18", "norm": "sync_batch_norm", "dtype": "bfloat16"},
         (2, 2, 2, 2), [(3, None), (3, 1)]),
    ],
)  # fmt: skip
def test_receptive_fields_of_resnets_follow_the_recurrence(options, depths, windows):
    layers = summarize(build_rcnn(output_stage="c5", **options), 64, 64)
    stem = [(3, 2)] if options.get("stem") == "small" else [(7, 2), (3, 2)]
    expected = list(fields_of_resnet(depths, windows, stem))
    assert column(layers[:5], "receptive_field") == expected
    assert layers[5].receptive_field == expected[-1] + 2 * layers[5].stride


def test_a_field_wider_than_half_of_the_first_canvas(monkeypatch):
    network = build_rcnn(backbone="resnet18")
    expected = column(summarize(network, 64, 64), "receptive_field")
    monkeypatch.setattr("rpn_jax.models.summary._CANVAS", 128)
    assert column(summarize(network, 64, 64), "receptive_field") == expected
    assert max(expected) > 128


# One of each kind: deeper ones, of the same blocks, take long to trace.
@pytest.mark.parametrize(
    "backbone",
    ["alexnet", "zf", "vgg16", "resnet18", "resnet50", "resnext50_32x4d", "densenet121"],
)
def test_every_backbone(backbone):
    network = build_rcnn(backbone=backbone, frozen_stages=1)
    layers = summarize(network, 70, 90, frozen_stages=1)
    images = jax.ShapeDtypeStruct((1, 70, 90, 3), jnp.float32)
    params = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), images)["params"]
    leaves = jax.tree.leaves(params)
    assert sum(layer.parameters for layer in layers) == sum(leaf.size for leaf in leaves)
    of_head = layers[-1]
    assert (of_head.shape[:2],) == network.grid_hw(70, 90)
    assert (of_head.stride,) == network.strides
    assert column(layers, "frozen") == [layer.name == "backbone/c1" for layer in layers]


def test_a_neck_stands_between_backbone_and_head():
    network = build_rcnn(backbone="resnet18", neck="fpn", fpn_channels=32, frozen_stages=2)
    layers = summarize(network, 70, 90, frozen_stages=2)
    by_name = {layer.name: layer for layer in reversed(layers)}
    assert [layer.name for layer in layers] == [
        *(f"backbone/c{i}" for i in range(1, 6)),
        *(f"neck/lateral{i}" for i in range(2, 6)),
        *(f"neck/output{i}" for i in range(2, 6)),
        *(f"rpn/{name}" for name in ("conv", "deltas", "objectness") for _ in range(5)),
    ]
    for i, channels in zip(range(2, 6), (64, 128, 256, 512), strict=True):
        stage, lateral, output = (
            by_name[name] for name in (f"backbone/c{i}", f"neck/lateral{i}", f"neck/output{i}")
        )
        assert lateral.shape == output.shape == (*stage.shape[:2], 32)
        assert lateral.stride == output.stride == stage.stride == 2**i
        assert lateral.receptive_field == stage.receptive_field
        assert lateral.parameters == (channels + 1) * 32
        assert output.parameters == (9 * 32 + 1) * 32
        assert output.flops == 2 * output.shape[0] * output.shape[1] * 9 * 32 * 32
    # Two cells on either side of the coarsest; finer levels see through it, so hardly less.
    coarsest = by_name["neck/output5"].receptive_field
    assert coarsest == by_name["backbone/c5"].receptive_field + 2 * 32
    fields = [by_name[f"neck/output{i}"].receptive_field for i in range(2, 6)]
    assert min(fields) >= by_name["backbone/c5"].receptive_field
    assert [layer.stride for layer in layers[-5:]] == list(network.strides)
    assert tuple(layer.shape[:2] for layer in layers[-5:]) == network.grid_hw(70, 90)
    frozen = [layer.name for layer in layers if layer.frozen]
    assert frozen == ["backbone/c1", "backbone/c2"]


class Pyramid(nn.Module):
    """Two levels: a stage at stride 2, and one at stride 4 whose features are added to it."""

    strides = (2, 4)

    @nn.compact
    def __call__(self, images, train=False):
        fine = nn.Conv(4, (3, 3), 2, padding=1, name="c1")(images)
        coarse = nn.Conv(4, (3, 3), 2, padding=1, name="c2")(fine)
        merged = fine + coarse.repeat(2, axis=1).repeat(2, axis=2)
        return nn.Conv(4, (1, 1), name="p1")(merged), coarse


def test_levels_that_share_a_head():
    layers = summarize(RCNN(Pyramid(), RPNHead(1, 8)), 32, 48)
    rows = [layer[:6] for layer in layers if layer.name not in ("rpn/deltas", "rpn/objectness")]
    # (3x3 at step 1) 3; (3x3 at step 2) + 4; an upsampled cell sees no more than a coarse one, 7.
    # The head's 3x3 adds 2 * 4 on the coarse level. On the fine one its window touches two coarse
    # cells, 7 + 4, or three fine ones, 3 + 2 * 2, that do not stand out.
    assert rows == [
        ("backbone/c1", (16, 24, 4), 2, 3, 112, 108),
        ("backbone/c2", (8, 12, 4), 4, 7, 148, 144),
        ("backbone/p1", (16, 24, 4), 2, 7, 20, 16),
        ("rpn/conv", (16, 24, 8), 2, 11, 296, 288),
        ("rpn/conv", (8, 12, 8), 4, 15, 0, 0),
    ]
    of_head = [layer.flops for layer in layers if layer.name == "rpn/conv"]
    assert of_head == [2 * 16 * 24 * 288, 2 * 8 * 12 * 288]


def test_a_shared_stage_runs_for_the_boxes_and_for_the_masks():
    box = {"kind": "c5", "num_classes": 3, "pooled_size": 14, "channels": 0, "dropout": 0.0}
    network = build_rcnn(
        backbone="resnet18",
        box={**box, "norm": None, "class_agnostic": False},
        mask={"num_classes": 3, "channels": 8, "convolutions": 0},
    )
    layers = summarize(network, 64, 64, regions=10, masks=3)
    of_regions = {"box": [], "mask": []}
    for layer in layers:
        of_regions.get(layer.name.partition("/")[0], []).append(layer)
    first, second = (layer for layer in of_regions["box"] if layer.name == "box/c5")
    assert first.flops / 10 == second.flops / 3 > 0
    assert second.parameters == 0
    logits, upsample = of_regions["mask"]
    # Each of the 7 x 7 cells becomes four, by 512 x 8 numbers each.
    assert upsample.shape == (7, 7, 4 * 8)
    assert upsample.flops == 3 * 2 * 14 * 14 * 512 * 8
    # The map of the region's class alone.
    assert logits.flops == 3 * 2 * 14 * 14 * 8
