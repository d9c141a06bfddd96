"""RPN of a ResNet-50-C4 on COCO 2017: detectron2's "1x", 90 000 steps of 16 images.

    rpn-jax prepare --config=coco_rpn_resnet50_c4
    rpn-jax train --config=coco_rpn_resnet50_c4 --workdir=runs/coco_rpn_c4 \
        --config.model.pretrained=resnet50.safetensors

The network is "C4": up to c4 at stride 16, with anchors of five sizes there. `resnet50.safetensors`
holds torchvision's weights (docs/weights.md). What differs from detectron2's `rpn_R_50_C4_1x` is at
the head of coco_rpn_resnet50_fpn.py.

Expected time and score: not run in full. Run were 20 steps, as at the head of that file: the loss
is 0.66 in the mean of the first five and 0.12 of the last five. detectron2 reaches an AR@1000 of
51.6 % by the whole recipe.

Compiled for v5e:4x4 with 16 images: 0.8 GiB a chip, 606 GFLOP an image, 3500 images/s at best, of
which the memory is the bound.
"""

from rpn_jax.configs import coco_rpn_resnet50_fpn


def get_config():
    config = coco_rpn_resnet50_fpn()
    config.model.neck = None
    config.rpn.channels = 1024
    config.rpn.anchors.sizes = (32.0, 64.0, 128.0, 256.0, 512.0)
    config.rpn.proposals.train.pre_nms_top_n = 12_000
    config.rpn.proposals.train.post_nms_top_n = 2000
    config.rpn.proposals.test.pre_nms_top_n = 12_000
    return config
