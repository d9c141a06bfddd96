"""RPN of a ResNet-50-FPN on COCO 2017: detectron2's "1x", 90 000 steps of 16 images.

    rpn-jax prepare --config=coco_rpn_resnet50_fpn
    rpn-jax train --config=coco_rpn_resnet50_fpn --workdir=runs/coco_rpn \
        --config.model.pretrained=resnet50.safetensors

`resnet50.safetensors` holds torchvision's weights (docs/weights.md). The learning rate follows
another batch size; scale the steps, too.

What differs from detectron2's `rpn_R_50_FPN_1x`: torchvision's ResNet-50 strides in its 3x3
convolutions, MSRA's in 1x1; biases have no weight decay; anchors inside a crowd are not trained on,
there they are background; images without objects are trained on; AR matches by falling score, as
COCO's does, there by falling IoU.

Expected time and score: not run in full. Run were 20 steps of two photographs of COCO at 128x171,
from random weights with group norm (no ResNet's were at hand), all of them trained, a learning rate
of 0.005 and gradients clipped at 10: the loss is 0.68 in the mean of the first five steps and 0.26
of the last five. detectron2 reaches an AR@1000 of 58.0 % by the whole recipe.

Compiled for v5e:4x4 with 16 images: 1.5 GiB a chip, 1177 GFLOP an image, 1569 images/s at best, of
which the memory is the bound.
"""

from rpn_jax.runs.config import default_config


def get_config():
    config = default_config()
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
    config.rpn.anchors.offset = 0.0
    config.rpn.targets.drop_straddling = False
    config.rpn.loss.normalizer = "sampled"
    config.rpn.loss.balance = 1.0
    config.rpn.loss.beta = 0.0
    config.rpn.proposals.train.pre_nms_top_n = 2000
    config.rpn.proposals.train.post_nms_top_n = 1000
    config.rpn.proposals.test.pre_nms_top_n = 1000
    config.rpn.proposals.test.post_nms_top_n = 2000  # those of a Fast R-CNN's training

    config.batch_size = 16
    config.steps = 90_000
    config.optimizer.learning_rate = 0.02
    config.optimizer.reference_batch_size = 16
    config.optimizer.decay_at = (60_000, 80_000)
    config.optimizer.warmup_steps = 1000
    config.optimizer.weight_decay = 1e-4
    return config
