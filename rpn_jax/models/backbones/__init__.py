"""Backbones: from images to the features of the stages c1 to c5."""

import functools

from rpn_jax.models.backbones.alexnet import AlexNet
from rpn_jax.models.backbones.densenet import DenseNet
from rpn_jax.models.backbones.resnet import ResNet
from rpn_jax.models.backbones.vgg import VGG16
from rpn_jax.models.backbones.zf import ZF

_basic = functools.partial(ResNet, bottleneck=False)
_bottleneck = functools.partial(ResNet, bottleneck=True)


# All have the stages c1 to c5, and the fields frozen_stages, output_stages (by default the one on
# which the head sits, at stride 16), remat and dtype. Any of `_OPTIONS` that is a field of one is
# its own.
BACKBONES = {
    "alexnet": AlexNet,
    "zf": ZF,
    "vgg16": VGG16,
    "resnet18": functools.partial(_basic, depths=(2, 2, 2, 2)),
    "resnet34": functools.partial(_basic, depths=(3, 4, 6, 3)),
    "resnet50": functools.partial(_bottleneck, depths=(3, 4, 6, 3)),
    "resnet101": functools.partial(_bottleneck, depths=(3, 4, 23, 3)),
    "resnet152": functools.partial(_bottleneck, depths=(3, 8, 36, 3)),
    "resnext50_32x4d": functools.partial(
        _bottleneck, depths=(3, 4, 6, 3), groups=32, width_per_group=4
    ),
    "resnext101_32x8d": functools.partial(
        _bottleneck, depths=(3, 4, 23, 3), groups=32, width_per_group=8
    ),
    "densenet121": DenseNet,
}
