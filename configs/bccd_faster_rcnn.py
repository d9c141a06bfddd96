"""Faster R-CNN on blood cells: red, white and platelets of BCCD, from scratch.

    rpn-jax prepare --config=bccd --config.data.source=FOLDER
    rpn-jax train --config=bccd_faster_rcnn --config.data.source=FOLDER \
        --workdir=runs/bccd_faster_rcnn

Sixteen to eighteen minutes on two CPU cores that had other work too. Trained on the train list (205
images), measured on the test list (72 images, 945 objects), in per cent:

                           AP  AP50  AP75  Platelets    RBC    WBC  (AP50)
    seed 0               52.6  86.1  55.9       79.6   81.1   97.5
    seed 1               53.8  85.7  59.7
    torchvision, seed 0  41.0  62.9  51.0        9.6   81.0   97.8

torchvision's FasterRCNN has the same ResNet-18, anchors, sizes of the head, sides of images, steps
and batch, from scratch, by its default recipe: SGD, 0.02 for 16 images, falling by 10 twice.
"""

from rpn_jax.configs import bccd


def get_config():
    config = bccd("faster_rcnn")
    config.rpn.loss.balance = 1.0
    config.rpn.proposals.train.pre_nms_top_n = 1000
    config.rpn.proposals.train.post_nms_top_n = 300
    config.rpn.proposals.test.pre_nms_top_n = 1000

    config.box.head = "fc"
    config.box.channels = 256
    config.box.dropout = 0.0
    config.box.pooling.kind = "align"
    config.box.targets.batch_size_per_image = 64
    config.box.targets.positive_fraction = 0.5

    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 5e-3
    return config
