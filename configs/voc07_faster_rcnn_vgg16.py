"""The paper's Faster R-CNN: VGG-16 on PASCAL VOC 2007, both stages trained jointly.

    rpn-jax prepare --config=voc07_faster_rcnn_vgg16
    rpn-jax train --config=voc07_faster_rcnn_vgg16 --workdir=runs/voc07_faster_rcnn \
        --config.model.pretrained=vgg16.npz

The four steps of the paper, as py-faster-rcnn's `faster_rcnn_alt_opt.yml` has them:

    rpn-jax alternate --config=voc07_faster_rcnn_vgg16 --workdir=runs/voc07_alternating \
        --config.model.pretrained=vgg16.npz --config.model.pretrained_last=False \
        --rpn.batch_size=1 --rpn.steps=80000 "--rpn.optimizer.decay_at=(60000,)" \
        --fast_rcnn.steps=40000 "--fast_rcnn.optimizer.decay_at=(30000,)" \
        --fast_rcnn.box.targets.batch_size_per_image=64

The recipe of py-faster-rcnn's `faster_rcnn_end2end.yml`: 70 000 steps of two images, whose
gradients are averaged. `vgg16.npz` holds an ImageNet VGG-16 with fc6 and fc7 (docs/weights.md).

Expected time and score: not run, as neither the data nor a GPU was at hand. Run were 20 steps at
192x256 on photographs of VOC 2007, with torchvision's VGG-16, fc6 and fc7 of 1024 and 32 regions
an image: the loss is finite, 2.9 in the mean of the first five steps and 2.2 of the last five.
Compiled for v5e:16x16 with 256 images: 2.2 GiB a chip, 1022 GFLOP an image, 17 360 images/s at
best. With alternating training the paper reaches an AP of 69.9 % (VOC 2007's, of 11 points), and
says that joint training is close.
"""

from rpn_jax.configs import voc07_vgg16
from rpn_jax.configs._class_names import VOC


def get_config():
    config = voc07_vgg16("faster_rcnn")
    config.batch_size = 2
    config.steps = 70_000
    config.optimizer.decay_at = (50_000,)
    config.rpn.loss.normalizer = "sampled"
    config.rpn.loss.balance = 1.0
    config.rpn.proposals.min_size = 16.0

    config.box.class_names = VOC
    config.box.head = "fc"
    config.box.channels = 4096
    config.box.dropout = 0.5
    config.box.pooling.kind = "pool"
    config.box.pooling.size = 7
    config.box.targets.batch_size_per_image = 128
    config.box.loss.beta = 1.0
    config.box.detections.nms_threshold = 0.3
    return config
