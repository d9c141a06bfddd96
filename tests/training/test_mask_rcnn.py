"""What a third stage adds to the detector of two, which test_faster_rcnn tests."""

import functools

import jax
import numpy as np
import pytest
from training.small import small_batch, small_mask_config, with_masks

from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import init_variables, variable_shapes
from rpn_jax.training.build import build_detector, build_network
from rpn_jax.typing import Proposals, Regions

BATCH = with_masks(small_batch(2))
GT_INDEX = np.tile(np.arange(3, dtype=np.int32), (2, 1))


@pytest.fixture(scope="module")
def run():
    """Of a batch the gradient of the masks' loss, and what its regions cost and are."""
    detector = build_detector(small_mask_config()).fast()
    variables = jax.jit(functools.partial(init_variables, detector.network))(jax.random.key(0))

    def loss_of(params, batch):
        variables_now, objects = {**variables, "params": params}, batch.ground_truth
        levels, _ = detector.levels(variables_now, batch.images, batch.image_hw)
        regions = Regions(objects.boxes, objects.valid, objects.labels, GT_INDEX)
        loss, parts = detector.losses_of_regions(levels, variables_now, regions, objects, None)
        proposals = Proposals(objects.boxes, objects.boxes[..., 0], objects.valid, GT_INDEX)
        found = detector.detections_of(levels, variables_now, proposals, batch.image_hw)
        return parts["loss_mask"].mean(), ({**parts, "loss": loss}, found)

    gradient_of = jax.jit(jax.grad(loss_of, has_aux=True))
    return lambda batch: jax.device_get(gradient_of(variables["params"], batch))


def test_the_loss_is_the_sum_of_the_parts(run):
    _, (parts, _) = run(BATCH)
    names = ("loss_class", "loss_class_box", "loss_mask")
    np.testing.assert_allclose(parts["loss"], sum(parts[name] for name in names), rtol=1e-5)
    np.testing.assert_allclose(parts["loss_mask"], np.log(2), rtol=0.05)  # to begin with


def test_masks_train_their_head_and_the_backbone_alone(run):
    gradient, _ = run(BATCH)
    trained = {
        part: any(leaf.any() for leaf in jax.tree.leaves(of_part))
        for part, of_part in gradient.items()
    }
    assert trained == {"backbone": True, "mask": True, "rpn": False, "box": False}


def test_what_an_image_costs_does_not_depend_on_the_batch(run):
    _, (together, _) = run(BATCH)
    other = with_masks(small_batch(2, seed=5))
    _, (apart, _) = run(jax.tree.map(lambda a, b: np.stack([a[0], b[1]]), BATCH, other))
    assert apart["loss_mask"][1] != together["loss_mask"][1]
    for name, part in together.items():
        np.testing.assert_allclose(apart[name][0], part[0], rtol=1e-5, err_msg=name)


def test_detections_have_masks(run):
    _, (_, found) = run(BATCH)
    assert found.masks.shape == (2, 10, 8, 8)
    assert found.valid.any()
    np.testing.assert_allclose(found.masks[found.valid], 0.5, atol=0.1)
    assert not found.masks[~found.valid].any()


def test_heads_that_share_a_stage_get_regions_of_one_size():
    config = small_mask_config("--config.box.head=c5", "--config.model.output_stage=c4")
    with pytest.raises(UserError, match=r"^config.mask.pooling.size: is 4, .* gets 3 of the box"):
        build_network(config)
    config.mask.pooling.size = 3
    params = variable_shapes(build_network(config))["params"]
    assert set(params["mask"]) == {"conv1", "upsample", "logits"}
    assert params["mask"]["conv1"]["kernel"].shape[2] == 512
    assert set(params["box"]) == {"c5", "scores", "deltas"}
