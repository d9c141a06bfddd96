"""The paper's recipe: VGG-16 on PASCAL VOC 2007, section 3.1.3 and 3.3.

    rpn-jax prepare --config=voc07_vgg16
    rpn-jax train --config=voc07_vgg16 --workdir=runs/voc07_vgg16 \
        --config.model.pretrained=vgg16.npz

One image a step; on N devices give --config.batch_size=N, and scale the learning rate and the steps
with it. `vgg16.npz` holds the convolutions of an ImageNet VGG-16 (docs/weights.md).

Expected time and score: not measured here, as neither the data nor a GPU was at hand.
"""

from rpn_jax.runs.config import default_config


def get_config(detector="rpn"):
    config = default_config(detector)
    config.data.dataset = "voc/2007"
    config.data.train_split = "train+validation"
    config.data.eval_split = "test"
    config.data.shorter_side = 600
    config.data.longer_side = 1000

    config.model.backbone = "vgg16"
    config.model.frozen_stages = 2  # tunes conv3_1 and up
    config.rpn.channels = 512
    config.rpn.objectness = "softmax"
    config.model.input_convention = "caffe"

    config.rpn.loss.normalizer = "paper"
    config.rpn.loss.balance = 10.0

    config.batch_size = 1
    config.steps = 80_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_at = (60_000,)
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4

    config.rpn.proposals.nms_threshold = 0.7
    config.rpn.proposals.train.post_nms_top_n = 2000
    config.rpn.proposals.test.post_nms_top_n = 300
    return config
