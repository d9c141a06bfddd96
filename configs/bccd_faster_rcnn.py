"""Faster R-CNN on blood cells: red, white and platelets of BCCD, from scratch.

    rpn-jax prepare --config=bccd --config.data.source=FOLDER
    rpn-jax train --config=bccd_faster_rcnn --config.data.source=FOLDER \
        --workdir=runs/bccd_faster_rcnn

Eighteen minutes on two CPU cores that had other work too. Trained on the train list (205 images),
measured on the test list (72 images, 945 objects), in per cent; seed 0:

      AP  AP50  AP75
    53.7  86.2  58.8

    class      objects    AP  AP50  AP75
    Platelets       69  33.0  78.8  15.0
    RBC            805  53.7  82.2  65.7
    WBC             71  74.3  97.5  95.5
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
