"""Faster R-CNN on a small folder of VOC photographs: VGG-16's convolutions frozen, heads on top.

    rpn-jax prepare --config=voc_folder_faster_rcnn_vgg16 --config.data.source=FOLDER
    rpn-jax train --config=voc_folder_faster_rcnn_vgg16 --config.data.source=FOLDER \
        --config.model.pretrained=vgg16.pth --workdir=runs/voc_faster_rcnn

`vgg16.pth` is torchvision's. The features of each image and its mirror image are computed once, as
for `voc_folder_vgg16`, whose files this config reads too. All classes share one box, and half of
the units drop out: 800 photographs are few for 20 classes.

Expected time and score: not measured yet.
"""

from rpn_jax.configs import voc_folder_vgg16


def get_config():
    config = voc_folder_vgg16("faster_rcnn")
    config.rpn.proposals.train.pre_nms_top_n = 1000
    config.rpn.proposals.train.post_nms_top_n = 300
    config.rpn.proposals.test.pre_nms_top_n = 2000

    config.box.head = "fc"
    config.box.channels = 512
    config.box.dropout = 0.5
    config.box.class_agnostic = True
    config.box.pooling.kind = "align"
    config.box.pooling.size = 5
    config.box.targets.batch_size_per_image = 64
    config.box.targets.positive_fraction = 0.5

    config.batch_size = 2
    return config
