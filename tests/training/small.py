"""A network and a batch small enough that a training step compiles in a few seconds."""

import jax
import numpy as np

from rpn_jax.runs import devices
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.typing import GroundTruth, Images

FIELDS = (
    "--config.model.backbone=resnet18",
    "--config.model.norm=group_norm",
    "--config.model.output_stage=c2",
    "--config.rpn.channels=16",
    "--config.model.input_convention=centred",
    "--config.rpn.anchors.sizes=(12.0,24.0)",
    "--config.rpn.targets.drop_straddling=false",
    "--config.rpn.targets.batch_size_per_image=32",
    "--config.data.shorter_side=48",
    "--config.data.longer_side=64",
    "--config.evaluation.top_ns=(10,50)",
    "--config.evaluation.batch_size=1",  # of each of eight devices
    "--config.rpn.proposals.test.pre_nms_top_n=100",
    "--config.rpn.proposals.test.post_nms_top_n=20",
    "--config.optimizer.learning_rate=0.02",
)
# Five levels on top of `FIELDS`.
PYRAMID = (
    "--config.model.output_stage=None",
    "--config.model.neck=fpn",
    "--config.model.fpn_channels=8",
    "--config.rpn.anchors.sizes=((8.0,),(12.0,),(16.0,),(24.0,),(32.0,))",
)


# A second stage on top of `FIELDS`.
BOX = (
    "--config.rpn.proposals.train.pre_nms_top_n=100",
    "--config.rpn.proposals.train.post_nms_top_n=40",
    "--config.box.class_names=('dark','bright')",
    "--config.box.channels=16",
    "--config.box.pooling.size=3",
    "--config.box.targets.batch_size_per_image=16",
    "--config.box.detections.top_n=10",
    "--config.box.detections.max_candidates=60",
)


# A third stage on top of `BOX`.
MASK = (
    "--config.mask.channels=8",
    "--config.mask.convolutions=1",
    "--config.mask.pooling.size=4",
)


def small_config(*overrides: str):
    return apply_overrides(default_config(), [*FIELDS, *overrides])


def small_detector_config(*overrides: str):
    return apply_overrides(default_config("faster_rcnn"), [*FIELDS, *BOX, *overrides])


def of_fast_rcnn(flags):
    """The flags that a Fast R-CNN has too."""
    return tuple(flag for flag in flags if not flag.startswith("--config.rpn."))


def small_mask_config(*overrides: str):
    return apply_overrides(default_config("mask_rcnn"), [*FIELDS, *BOX, *MASK, *overrides])


def over_devices(train_step):
    """The step on as many devices as its batch has rows, all of them played by one."""
    return jax.vmap(
        train_step, in_axes=(None, 0, None), out_axes=(None, None), axis_name=devices.AXIS
    )


def small_batch(size: int, seed: int = 0, objects: int = 3) -> Images:
    """Returns random images, each with a bright box for an object, an ignore region and padding."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (size, 48, 64, 3), np.uint8)
    corners = rng.uniform(0, 30, (size, objects, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 18, corners.shape)], axis=2)
    for image, image_boxes in zip(images, boxes.astype(int), strict=True):
        for x1, y1, x2, y2 in image_boxes[:-2]:
            image[y1:y2, x1:x2] = 230
    slots = np.arange(objects)[None, :].repeat(size, axis=0)
    return Images(
        images=images,
        image_hw=np.tile(np.float32([[48, 60]]), (size, 1)),
        image_index=np.arange(size, dtype=np.int32),
        ground_truth=GroundTruth(
            boxes.astype(np.float32),
            slots < objects - 1,
            slots == objects - 2,
            slots.astype(np.int32) % 2 + 1,
        ),
    )


def with_masks(batch: Images) -> Images:
    """Returns the batch with a mask of each slot: the upper left half of its box."""
    half = 255 * np.tri(8, dtype=np.uint8)[:, ::-1]
    masks = np.broadcast_to(half, (*batch.ground_truth.valid.shape, 8, 8))
    return batch._replace(ground_truth=batch.ground_truth._replace(masks=masks))
