"""Mask R-CNN on generated shapes: the quick start's network, with classes and masks.

    rpn-jax prepare --config=shapes_mask_rcnn
    rpn-jax train --config=shapes_mask_rcnn --workdir=runs/shapes_mask_rcnn

Twenty minutes on two CPU cores. Measured on the 300 test images (1347 objects), seed 0, in %:

              AP  AP50  AP75
    boxes   74.6  95.5  86.7
    masks   66.2  93.8  72.7

The mask head is small, two convolutions of 64 channels: the shapes are, too.
"""

from rpn_jax.configs import shapes_faster_rcnn


def get_config():
    config = shapes_faster_rcnn("mask_rcnn")
    config.data.options.num_train = 6000
    config.mask.channels = 64
    config.mask.convolutions = 2

    config.steps = 1500
    config.evaluation.every = 1500
    return config
