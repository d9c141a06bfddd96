"""ResNet-50-FPN on COCO 2017: detectron2's "1x", 90 000 steps of 16 images.

    rpn-jax prepare --config=coco_faster_rcnn_resnet50_fpn
    rpn-jax train --config=coco_faster_rcnn_resnet50_fpn --workdir=runs/coco \
        --config.model.pretrained=resnet50.safetensors

`resnet50.safetensors` holds torchvision's weights (docs/weights.md). The learning rate follows
another batch size; scale the steps, too.

Expected time and score: not run. Run were 20 steps of two photographs of COCO at 192x256, random
weights and group norm (no ResNet's were at hand), fc6 and fc7 of 256, 32 regions an image, a
learning rate of 0.005 and gradients clipped at 10: the loss is finite, 4.9 in the mean of the first
five steps and 3.9 of the last five. detectron2 reaches an AP of 37.9 % by the whole recipe.

Compiled for v5e:16x16 with 256 images: 1.9 GiB a chip, 1211 GFLOP an image, 17 976 images/s at
best, of which the memory is the bound.
"""

from rpn_jax.configs._class_names import COCO, COCO_IDS
from rpn_jax.runs.config import default_config


def get_config():
    config = default_config("faster_rcnn")
    config.data.dataset = "coco/2017"
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.shorter_side = 800
    config.data.shorter_sides = (640, 672, 704, 736, 768, 800)
    config.data.longer_side = 1333

    config.model.backbone = "resnet50"
    config.model.neck = "fpn"
    config.model.norm = "frozen_batch_norm"
    config.model.frozen_stages = 2
    config.model.input_convention = "torchvision"
    config.rpn.channels = 256
    config.rpn.anchors.sizes = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    config.rpn.targets.drop_straddling = False
    config.rpn.loss.normalizer = "sampled"
    config.rpn.loss.balance = 1.0
    config.rpn.loss.beta = 0.0
    config.rpn.proposals.train.pre_nms_top_n = 2000
    config.rpn.proposals.train.post_nms_top_n = 1000
    config.rpn.proposals.test.pre_nms_top_n = 1000
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

    config.batch_size = 16
    config.steps = 90_000
    config.optimizer.learning_rate = 0.02
    config.optimizer.reference_batch_size = 16
    config.optimizer.decay_at = (60_000, 80_000)
    config.optimizer.warmup_steps = 1000
    config.optimizer.weight_decay = 1e-4
    return config
