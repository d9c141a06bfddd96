"""Faster R-CNN on blood cells: red, white and platelets of BCCD, from scratch.

    rpn-jax prepare --config=bccd --config.data.source=FOLDER
    rpn-jax train --config=bccd_faster_rcnn --config.data.source=FOLDER \
        --workdir=runs/bccd_faster_rcnn

Expected time and score: not measured yet.
"""

from rpn_jax.configs import bccd


def get_config():
    config = bccd("faster_rcnn")
    config.rpn.proposals.train.pre_nms_top_n = 1000
    config.rpn.proposals.train.post_nms_top_n = 500
    config.rpn.proposals.test.pre_nms_top_n = 1000

    config.box.head = "fc"
    config.box.channels = 512
    config.box.dropout = 0.0
    config.box.pooling.kind = "align"
    return config
