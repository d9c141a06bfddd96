"""Faster R-CNN on generated shapes: the quick start's network, with classes.

    rpn-jax prepare --config=shapes_faster_rcnn
    rpn-jax train --config=shapes_faster_rcnn --workdir=runs/shapes_faster_rcnn

TIME on two CPU cores. Measured on the 300 test images (1347 objects), in per cent:

                           AP  AP50  AP75  ellipse  rectangle  triangle  star  cross  (AP)
    seed 0               73.5  95.1  85.1     83.3       74.0      64.0  74.5   71.6
    seed 1               73.1  94.5  85.6     83.4       73.6      65.0  72.2   71.2
    torchvision, seed 0  30.1  48.0  33.4     47.2       35.5      17.8  29.3   20.5

torchvision's FasterRCNN has the same ResNet-18, anchors, sizes of the head, regions an image, steps and
batch, from scratch, by its default recipe: SGD, 0.02 for 16 images, falling by 10 twice.
"""

from rpn_jax.configs import shapes


def get_config(detector="faster_rcnn"):
    config = shapes(detector)
    config.data.options.num_train = 6000  # of 2000 it learns those by heart: an AP50 of 94 %
    config.rpn.loss.balance = 1.0  # with 3, classes are learned late: an AP50 of 61 %
    config.rpn.proposals.train.pre_nms_top_n = 1000
    config.rpn.proposals.train.post_nms_top_n = 300

    config.box.head = "fc"
    config.box.channels = 256
    config.box.dropout = 0.0
    config.box.pooling.kind = "align"
    config.box.pooling.sampling_ratio = 1
    config.box.targets.batch_size_per_image = 64
    config.box.targets.positive_fraction = 0.5

    config.steps = 1500
    config.ema_decay = 0.995
    config.evaluation.every = 1500
    return config
