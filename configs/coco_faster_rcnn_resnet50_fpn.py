"""ResNet-50-FPN on COCO 2017: detectron2's "1x", 90 000 steps of 16 images.

    rpn-jax prepare --config=coco_faster_rcnn_resnet50_fpn
    rpn-jax train --config=coco_faster_rcnn_resnet50_fpn --workdir=runs/coco \
        --config.model.pretrained=resnet50.safetensors

`resnet50.safetensors` holds torchvision's weights (docs/weights.md). The learning rate follows
another batch size; scale the steps, too.

Expected time and score: not run in full. Run were 20 steps of two photographs of COCO at 128x171,
from random weights with group norm (no ResNet's were at hand), all of them trained, fc6 and fc7 of
256, 32 of 300 proposals an image, a learning rate of 0.005 and gradients clipped at 10: the loss is
4.5 in the mean of the first five steps and 2.1 of the last five. detectron2 reaches an AP of 37.9 %
by the whole recipe.

Compiled for v5e:16x16 with 256 images: 1.9 GiB a chip, 1211 GFLOP an image, 17 976 images/s at
best, of which the memory is the bound.
"""

from rpn_jax.configs import coco_rpn_resnet50_fpn
from rpn_jax.configs._class_names import COCO, COCO_IDS


def get_config():
    config = coco_rpn_resnet50_fpn("faster_rcnn")
    config.rpn.proposals.test.post_nms_top_n = 1000

    config.box.class_names = COCO
    config.box.category_ids = COCO_IDS
    config.box.head = "fc"
    config.box.channels = 1024
    config.box.dropout = 0.0
    config.box.pooling.kind = "align"
    config.box.pooling.sampling_ratio = 0
    config.box.pooling.aligned = True
    config.box.pooling.level_eps = 1e-8
    config.box.targets.batch_size_per_image = 512
    config.box.loss.beta = 0.0
    return config
