"""Mask R-CNN with a ResNet-50-FPN on COCO 2017: detectron2's "1x", 90 000 steps of 16 images.

    rpn-jax prepare --config=coco_mask_rcnn_resnet50_fpn --config.data.source=COCO
    rpn-jax train --config=coco_mask_rcnn_resnet50_fpn --config.data.source=COCO \
        --workdir=runs/coco_masks --config.model.pretrained=resnet50.safetensors

COCO is the folder of COCO's own archives, with `annotations/instances_train2017.json`, `train2017`
and the same of `val2017`: TensorFlow Datasets' copy has no masks. `resnet50.safetensors` holds
torchvision's weights (docs/weights.md).

Expected time and score: not run in full. Run were 20 steps, as at the head of
coco_faster_rcnn_resnet50_fpn.py: the loss is 5.2 in the mean of the first five and 2.7 of the last
five. detectron2 reaches an AP of 38.6 % for boxes and 35.2 % for masks by the whole recipe.

Compiled for v5e:16x16 with 256 images: 2.4 GiB a chip, 1586 GFLOP an image, 12 769 images/s at
best, of which the memory is the bound.
"""

from rpn_jax.configs import coco_faster_rcnn_resnet50_fpn


def get_config():
    config = coco_faster_rcnn_resnet50_fpn("mask_rcnn")
    config.data.dataset = "coco_json"
    config.data.train_split = "train2017"
    config.data.eval_split = "val2017"

    config.mask.pooling.sampling_ratio = 0
    config.mask.pooling.aligned = True
    config.mask.pooling.level_eps = 1e-8
    return config
