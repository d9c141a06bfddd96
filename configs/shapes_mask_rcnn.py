"""Mask R-CNN on generated shapes: the quick start's network, with classes and masks.

    rpn-jax prepare --config=shapes
    rpn-jax train --config=shapes_mask_rcnn --workdir=runs/shapes_mask_rcnn
"""

from rpn_jax.configs import shapes_faster_rcnn


def get_config():
    config = shapes_faster_rcnn("mask_rcnn")
    config.mask.channels = 64
    config.mask.convolutions = 2
    return config
