"""ResNet-50-C4 on PASCAL VOC 2007 and 2012, with detectron2's schedule.

    rpn-jax prepare --config=voc0712_faster_rcnn_resnet50_c4 --config.data.source=FOLDER
    rpn-jax train --config=voc0712_faster_rcnn_resnet50_c4 --config.data.source=FOLDER \
        --workdir=runs/voc0712 --config.model.pretrained=resnet50.safetensors

FOLDER holds both years in VOC's layout, with the lists `trainval` (16 551 images of both years) and
`test` (4952 of 2007). `resnet50.safetensors` holds torchvision's weights (docs/weights.md).

Expected time and score: not run in full. Run were 20 steps of two photographs of VOC 2007 at
128x171, from random weights with group norm (no ResNet's were at hand), all of them trained, 32 of
300 proposals an image, a learning rate of 0.005 and gradients clipped at 10: the loss is 2.5 in the
mean of the first five steps and 1.0 of the last five. detectron2 reaches an AP50 of 80.3 % and an
AP of 51.9 % in 18 000 steps of 16 images.

Compiled for v5e:16x16 with 256 images: 2.8 GiB a chip, 2937 GFLOP an image, 7130 images/s at best,
of which the memory is the bound.
"""

from rpn_jax.configs._class_names import VOC
from rpn_jax.runs.config import default_config


def get_config():
    config = default_config("faster_rcnn")
    config.data.dataset = "voc_folder"
    config.data.train_split = "trainval"
    config.data.eval_split = "test"
    config.data.shorter_side = 800
    config.data.shorter_sides = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    config.data.longer_side = 1333

    config.model.backbone = "resnet50"
    config.model.norm = "frozen_batch_norm"
    config.model.frozen_stages = 2
    config.model.input_convention = "torchvision"
    config.rpn.channels = 1024
    config.rpn.anchors.sizes = (32.0, 64.0, 128.0, 256.0, 512.0)
    config.rpn.anchors.offset = 0.0
    config.rpn.targets.drop_straddling = False
    config.rpn.loss.normalizer = "sampled"
    config.rpn.loss.balance = 1.0
    config.rpn.loss.beta = 0.0
    config.rpn.proposals.test.post_nms_top_n = 1000

    config.box.class_names = VOC
    config.box.head = "c5"
    config.box.pooling.kind = "align"
    config.box.pooling.size = 14
    config.box.pooling.sampling_ratio = 0
    config.box.pooling.aligned = True
    config.box.targets.batch_size_per_image = 512
    config.box.loss.beta = 0.0

    config.batch_size = 16
    config.steps = 18_000
    config.optimizer.learning_rate = 0.02
    config.optimizer.reference_batch_size = 16
    config.optimizer.decay_at = (12_000, 16_000)
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 1e-4
    return config
