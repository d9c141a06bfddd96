"""From the fields of a config to its network and its anchors."""

import jax
import numpy as np
import peer_cases
import pytest
from training.small import PYRAMID, small_config

from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import trainable_mask, variable_shapes
from rpn_jax.runs.config import default_config
from rpn_jax.training.build import build_network, frozen_paths, initial_variables
from rpn_jax.training.evaluate import eval_batch_size
from rpn_jax.training.splits import check_batch_size
from rpn_jax.training.stages import box_stage, proposal_stage
from rpn_jax.weights.networks import source_config


def pyramid(*overrides):
    config = small_config(*PYRAMID, *overrides)
    return config, build_network(config)


def test_each_level_has_anchors_of_its_own_sizes():
    config, network = pyramid("--config.rpn.anchors.aspect_ratios=(1.0,4.0)")
    levels = proposal_stage(config).anchors(network, 64, 96)
    for level, stride, size in zip(levels, (4, 8, 16, 32, 64), (8, 12, 16, 24, 32), strict=True):
        assert len(level) == 2 * -(-64 // stride) * -(-96 // stride)
        square, wide = np.asarray(level[:2])
        half, middle = size / 2, stride / 2
        np.testing.assert_allclose(square, middle + half * np.array([-1, -1, 1, 1]), rtol=1e-6)
        np.testing.assert_allclose(wide, middle + half * np.array([-2, -0.5, 2, 0.5]), rtol=1e-6)


def test_with_torchvisions_rounding_the_anchors_are_torchvisions():
    sizes, canvas_hw, grids = peer_cases.ANCHORS["odd_pyramid"]
    config, network = pyramid(
        "--config.rpn.anchors.rounding=torchvision",
        "--config.rpn.anchors.offset=0.0",
        f"--config.rpn.anchors.sizes={sizes}",
        f"--config.rpn.anchors.aspect_ratios={tuple(1 / r for r in peer_cases.TORCHVISION_RATIOS)}",
    )
    assert network.grid_hw(*canvas_hw) == grids
    answers = peer_cases.peer_answers("anchors")
    for level, anchors in enumerate(proposal_stage(config).anchors(network, *canvas_hw)):
        np.testing.assert_array_equal(anchors, answers[f"odd_pyramid/anchors{level}"])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("(32.0,64.0)", "number of levels is 1, but that of the network is 5 (stride 4, 8, 16, 32"),
        ("((32.0,),(64.0,))", "number of levels is 2, but that of the network is 5"),
        (
            "((32.0,),64.0)",
            "sizes=((32.0,), 64.0): give numbers above 0, or a tuple of equally many",
        ),
        ("((32.0,),(64.0,128.0))", "a tuple of equally many for each level"),
        ("((32.0,),(-64.0,))", "give numbers above 0"),
    ],
)
def test_sizes_that_do_not_fit_the_levels_are_refused(sizes, message):
    with pytest.raises(UserError, match="^config.rpn.anchors") as error:
        pyramid(f"--config.rpn.anchors.sizes={sizes}")
    assert message in str(error.value)


def test_levels_for_a_network_without_a_neck_are_refused():
    config = small_config("--config.rpn.anchors.sizes=((32.0,),(64.0,))")
    with pytest.raises(UserError, match=r"number of levels is 2, .* is 1 .*; give numbers alone$"):
        build_network(config)


@pytest.mark.parametrize("keep_padding", [False, True])
def test_anchors_beyond_the_image_propose_if_the_config_says_so(keep_padding):
    config = small_config(f"--config.rpn.proposals.keep_padding={keep_padding}")
    # The image is 30 wide: the better one of the anchors is centred on 35.
    anchors = (np.float32([[0, 0, 10, 10], [25, 0, 45, 10]]),)
    logits, deltas = (np.float32([0, 5]),), (np.zeros((2, 4), np.float32),)
    stage = proposal_stage(config)
    proposals = stage.propose(logits, deltas, anchors, np.float32([20, 30]), stage.test)
    boxes = np.asarray(proposals.boxes[proposals.valid])
    expected = [[25, 0, 30, 10], [0, 0, 10, 10]]
    np.testing.assert_array_equal(boxes, expected if keep_padding else expected[1:])


@pytest.mark.parametrize(
    ("name", "canonical_size", "expected"),
    [
        ("torchvision/fasterrcnn_resnet50_fpn", 224, [2, 3, 4]),
        ("detectron2/r50_fpn", 224, [2, 2, 4]),
        ("detectron2/r50_fpn", 112, [3, 3, 5]),
    ],
)
def test_a_region_is_pooled_from_the_level_that_the_system_says(name, canonical_size, expected):
    config = source_config(name, "faster_rcnn")
    config.box.pooling.canonical_size = float(canonical_size)
    levels = tuple(np.full((3, 3, 1), number, np.float32) for number in (2, 3, 4, 5))
    # The second is a rounding error too small for p3, the third is p4's.
    boxes = np.float32([[0, 0, side, side] for side in (60, 111.99995, 250)])
    pooled = box_stage(config, build_network(config)).pool(levels, boxes)
    np.testing.assert_allclose(pooled[:, 0, 0, 0], expected, rtol=1e-6)


def test_a_frozen_neck_is_not_trained():
    config, network = pyramid("--config.model.frozen_stages=5", "--config.model.frozen_neck=true")
    mask = trainable_mask(variable_shapes(network)["params"], frozen_paths(config))
    for part, trained in {"backbone": False, "neck": False, "rpn": True}.items():
        assert set(jax.tree.leaves(mask[part])) == {trained}, part
    with pytest.raises(UserError, match="config.model.frozen_neck: is True, but the network has"):
        build_network(small_config("--config.model.frozen_neck=true"))


def test_a_network_of_one_level_keeps_the_names_of_its_variables():
    config = small_config()
    network = build_network(config)
    variables = jax.eval_shape(lambda: initial_variables(config, network, None))
    paths = {
        "/".join(key.key for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(variables)
    }
    layers = [("block1", "conv1"), ("block1", "conv2"), ("block2", "conv1"), ("block2", "conv2")]
    modules = ["c1/conv1", *(f"c2/{block}/{conv}" for block, conv in layers)]
    assert paths == {
        *(f"params/backbone/{module}/conv/kernel" for module in modules),
        *(f"params/backbone/{module}/norm/{x}" for module in modules for x in ("scale", "bias")),
        *(
            f"params/rpn/{layer}/{x}"
            for layer in ("conv", "objectness", "deltas")
            for x in ("kernel", "bias")
        ),
    }


def test_a_batch_must_be_as_many_micro_batches_on_every_device():
    check_batch_size("config.batch_size", 32, accumulation=4)  # 8 devices
    message = "config.batch_size=24: 8 devices cannot share it evenly in 2 micro-batches each; .*16"
    with pytest.raises(UserError, match=message):
        check_batch_size("config.batch_size", 24, accumulation=2)
    with pytest.raises(UserError, match="config.accumulation=0: give"):
        check_batch_size("config.batch_size", 8, accumulation=0)


@pytest.mark.parametrize(
    ("fields", "of_device"), [({}, 2), ({"batch_size": 64}, 8), ({"evaluation.batch_size": 3}, 3)]
)
def test_evaluation_gives_each_device_as_many_images_however_many_there_are(fields, of_device):
    config = default_config()
    config.batch_size = 2
    config.update_from_flattened_dict(fields)
    assert eval_batch_size(config) == 8 * of_device
