"""Faster R-CNN on blood cells: red, white and platelets of BCCD, from scratch.

    rpn-jax prepare --config=bccd --config.data.source=FOLDER
    rpn-jax train --config=bccd_faster_rcnn --config.data.source=FOLDER \
        --workdir=runs/bccd_faster_rcnn

Six minutes on two cores of an AMD EPYC, seventeen on busy ones of before. Trained on the train list
(205 images), measured on the test list (72 images, 945 objects), in per cent:

                           AP  AP50  AP75  Platelets    RBC    WBC  (AP50)
    seed 0               54.8  88.3  58.1       85.2   81.8   97.7
    seed 1               54.5  87.2  59.7       82.7   81.4   97.6
    torchvision, seed 0  42.9  66.5  51.6       20.2   81.0   98.2

torchvision's FasterRCNN has the same ResNet-18, anchors, sizes of the head, sides of images, steps
and batch, from scratch, by its references' recipe: SGD, 0.02 for 16 images, falling by 10 twice
(`scripts/peer_training.py`).
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
