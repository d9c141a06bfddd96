"""The paper's recipe with a ResNet-50 in place of VGG-16, on PASCAL VOC 2007.

    rpn-jax prepare --config=voc07_resnet50
    rpn-jax train --config=voc07_resnet50 --workdir=runs/voc07_resnet50 \
        --config.model.pretrained=resnet50.safetensors

The network is "C4": up to c4 at stride 16, with batch normalisation frozen, the stem and c2 too.
`resnet50.safetensors` holds torchvision's weights (docs/weights.md).

Expected time and score: not run.
"""

from rpn_jax.configs import voc07_vgg16


def get_config():
    config = voc07_vgg16.get_config()
    config.model.backbone = "resnet50"
    config.model.norm = "frozen_batch_norm"
    config.model.frozen_stages = 2
    config.model.input_convention = "torchvision"
    return config
