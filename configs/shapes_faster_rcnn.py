"""Faster R-CNN on generated shapes: the quick start's network, with classes.

rpn-jax prepare --config=shapes
rpn-jax train --config=shapes_faster_rcnn --workdir=runs/shapes_faster_rcnn
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
