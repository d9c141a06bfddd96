"""The names that other projects give to the modules of a network, without their arrays.

A module is the place of a layer in a part of a network here, such as ("c3", "conv3_1") of the
backbone. Each table, or function, is of one project's one architecture.
"""

import re
from collections.abc import Iterator

from rpn_jax.models.backbones import vgg

Module = tuple[str, ...]


def _vgg_convolutions() -> Iterator[tuple[int, int, int]]:
    """Yields, for each convolution of VGG-16, its stage, its number there, and those before it."""
    before = 0
    for stage, (count, _) in enumerate(vgg.STAGES.values(), start=1):
        for number in range(1, count + 1):
            yield stage, number, before
            before += 1


def _vgg_place(stage: int, number: int) -> Module:
    return f"c{stage}", f"conv{stage}_{number}"


CAFFE_VGG = {_vgg_place(s, n): f"conv{s}_{n}" for s, n, _ in _vgg_convolutions()}
KERAS_VGG = {_vgg_place(s, n): f"block{s}_conv{n}" for s, n, _ in _vgg_convolutions()}
# torchvision numbers the layers through: behind each convolution its norm, if any, and a ReLU, and
# at the end of each stage a pool.
TORCHVISION_VGG = {
    _vgg_place(s, n): f"features.{2 * before + s - 1}" for s, n, before in _vgg_convolutions()
}
TORCHVISION_VGG_BN = {
    (*_vgg_place(s, n), kind): f"features.{3 * before + s - 1 + (kind == 'norm')}"
    for s, n, before in _vgg_convolutions()
    for kind in ("conv", "norm")
}
CAFFE_ZF = {(f"c{i}", f"conv{i}"): f"conv{i}" for i in range(1, 6)}
TORCHVISION_ALEXNET = {
    (f"c{i}", f"conv{i}"): f"features.{layer}" for i, layer in enumerate((0, 3, 6, 8, 10), 1)
}


def torchvision_resnet(module: Module) -> str | None:
    """Returns what torchvision calls a module of a ResNet, None if it has not got it."""
    match module:
        case "c1", "conv1", ("conv" | "norm") as kind:
            return "conv1" if kind == "conv" else "bn1"
        case stage, block, "shortcut", ("conv" | "norm") as kind:
            layer = "downsample.0" if kind == "conv" else "downsample.1"
        case stage, block, layer, ("conv" | "norm") as kind:
            layer = layer if kind == "conv" else layer.replace("conv", "bn")
        case _:
            return None
    return f"layer{_number(stage) - 1}.{_number(block) - 1}.{layer}"


def detectron2_resnet(module: Module) -> str | None:
    """Returns what detectron2 calls a module of a ResNet, None if it has not got it."""
    match module:
        case "c1", "conv1", ("conv" | "norm") as kind:
            name = "stem.conv1"
        case stage, block, layer, ("conv" | "norm") as kind:
            name = f"res{_number(stage)}.{_number(block) - 1}.{layer}"
        case _:
            return None
    return name if kind == "conv" else f"{name}.norm"


def keras_resnet(module: Module) -> str | None:
    """Returns what Keras calls a module of a ResNet, None if it has not got it."""
    match module:
        case "c1", "conv1", ("conv" | "norm") as kind:
            name = "conv1"
        case stage, block, layer, ("conv" | "norm") as kind:
            number = 0 if layer == "shortcut" else _number(layer)
            name = f"conv{_number(stage)}_block{_number(block)}_{number}"
        case _:
            return None
    return f"{name}_conv" if kind == "conv" else f"{name}_bn"


def torchvision_densenet(module: Module) -> str | None:
    """Returns what torchvision calls a module of a DenseNet, None if it has not got it."""
    match module:
        case "c1", ("conv0" | "norm0") as layer:
            return f"features.{layer}"
        case "c5", "norm":
            return "features.norm5"
        case stage, "norm":
            return f"features.transition{_number(stage) - 1}.norm"
        case stage, "transition":
            return f"features.transition{_number(stage) - 2}.conv"
        case stage, block, layer if block.startswith("layer"):
            return f"features.denseblock{_number(stage) - 1}.dense{block}.{layer}"
    return None


def keras_densenet(module: Module) -> str | None:
    """Returns what Keras calls a module of a DenseNet, None if it has not got it."""
    inner = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}
    match module:
        case "c1", ("conv0" | "norm0") as layer:
            return "conv1/conv" if layer == "conv0" else "conv1/bn"
        case "c5", "norm":
            return "bn"
        case stage, "norm":
            return f"pool{_number(stage)}_bn"
        case stage, "transition":
            return f"pool{_number(stage) - 1}_conv"
        case stage, block, layer if block.startswith("layer"):
            return f"conv{_number(stage)}_block{_number(block)}_{inner[layer]}"
    return None


def _number(name: str) -> int:
    """Returns the number at the end of a name, such as the 3 of "block3"."""
    return int(re.search(r"\d+$", name)[0])


TORCHVISION_FPN = {
    (f"{ours}{stage}",): f"backbone.fpn.{theirs}_blocks.{stage - 2}.0"
    for ours, theirs in (("lateral", "inner"), ("output", "layer"))
    for stage in range(2, 6)
}
TORCHVISION_FPN_V2 = TORCHVISION_FPN | {
    (f"norm_{module}",): re.sub("0$", "1", name) for (module,), name in TORCHVISION_FPN.items()
}
TORCHVISION_HEAD = {
    ("conv",): "rpn.head.conv.0.0",
    ("conv2",): "rpn.head.conv.1.0",
    ("objectness",): "rpn.head.cls_logits",
    ("deltas",): "rpn.head.bbox_pred",
}
TORCHVISION_BOX = {
    ("fc6",): "roi_heads.box_head.fc6",
    ("fc7",): "roi_heads.box_head.fc7",
    ("scores",): "roi_heads.box_predictor.cls_score",
    ("deltas",): "roi_heads.box_predictor.bbox_pred",
}
TORCHVISION_BOX_V2 = {
    **{
        (f"{ours}{i}",): f"roi_heads.box_head.{i - 1}.{theirs}"
        for ours, theirs in (("conv", 0), ("norm", 1))
        for i in range(1, 5)
    },
    ("fc6",): "roi_heads.box_head.5",
    ("scores",): "roi_heads.box_predictor.cls_score",
    ("deltas",): "roi_heads.box_predictor.bbox_pred",
}
TORCHVISION_MASK = {
    **{(f"conv{i}",): f"roi_heads.mask_head.{i - 1}.0" for i in range(1, 5)},
    ("upsample",): "roi_heads.mask_predictor.conv5_mask",
    ("logits",): "roi_heads.mask_predictor.mask_fcn_logits",
}
TORCHVISION_MASK_V2 = TORCHVISION_MASK | {
    (f"norm{i}",): f"roi_heads.mask_head.{i - 1}.1" for i in range(1, 5)
}
DETECTRON2_FPN = {
    (f"{layer}{stage}",): f"backbone.fpn_{layer}{stage}"
    for layer in ("lateral", "output")
    for stage in range(2, 6)
}
DETECTRON2_HEAD = {
    ("conv",): "proposal_generator.rpn_head.conv",
    ("objectness",): "proposal_generator.rpn_head.objectness_logits",
    ("deltas",): "proposal_generator.rpn_head.anchor_deltas",
}
DETECTRON2_BOX = {
    ("fc6",): "roi_heads.box_head.fc1",
    ("fc7",): "roi_heads.box_head.fc2",
    ("scores",): "roi_heads.box_predictor.cls_score",
    ("deltas",): "roi_heads.box_predictor.bbox_pred",
}
DETECTRON2_MASK = {
    **{(f"conv{i}",): f"roi_heads.mask_head.mask_fcn{i}" for i in range(1, 5)},
    ("upsample",): "roi_heads.mask_head.deconv",
    ("logits",): "roi_heads.mask_head.predictor",
}
CAFFE_HEAD = {
    ("conv",): "rpn_conv/3x3",
    ("objectness",): "rpn_cls_score",
    ("deltas",): "rpn_bbox_pred",
}
# Of classifiers, whose first two fully connected layers a detector begins with.
CAFFE_FC = {("fc6",): "fc6", ("fc7",): "fc7"}
KERAS_FC = {("fc6",): "fc1", ("fc7",): "fc2"}
TORCHVISION_VGG_FC = {("fc6",): "classifier.0", ("fc7",): "classifier.3"}
TORCHVISION_ALEXNET_FC = {("fc6",): "classifier.1", ("fc7",): "classifier.4"}
CAFFE_BOX = {**CAFFE_FC, ("scores",): "cls_score", ("deltas",): "bbox_pred"}


def detectron2_c4_box(module: Module) -> str | None:
    """Returns what detectron2 calls a module of the head that is the last stage of a ResNet."""
    if module in DETECTRON2_BOX:
        return DETECTRON2_BOX[module]
    name = detectron2_resnet(module)
    return name and f"roi_heads.{name}"
