"""torchvision's networks of `benchmark_torchvision.py`, as they are timed.

A network's weights and images are laid out in whichever of torch's two ways is faster for the case:
on a CPU with AVX2 alone the backward pass of VGG-16 took 7.2 s with channels last, 3.6 s without,
its forward pass 2.2 and 2.4 s.
"""

import sys

import benchmark_cases
import numpy as np
import torch
import torchvision
from benchmark_cases import Field
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import (
    FasterRCNN,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import FrozenBatchNorm2d

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COMPILE = "--compile" in sys.argv
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
RATIOS = (0.5, 1.0, 2.0)  # heights over widths
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_rpn(field: Field, head=None, pre: int = 1000, post: int = 1000) -> RegionProposalNetwork:
    """Returns torchvision's region proposal network with the paper's numbers."""
    counts = {"training": pre, "testing": pre}, {"training": post, "testing": post}
    anchors = AnchorGenerator(field.sizes, (RATIOS,) * len(field.sizes))
    rpn = RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, *counts, 0.7)
    return rpn.to(DEVICE)


def _features(*children: nn.Module, out_channels: int, frozen: tuple[int, ...]) -> nn.Module:
    """The children as a sequence; the `frozen` ones get no gradients."""
    for index in frozen:
        children[index].requires_grad_(False)
    features = nn.Sequential(*children)
    features.out_channels = out_channels
    return features


def vgg16(frozen: int) -> nn.Module:
    """To the last convolution and its ReLU."""
    layers = torchvision.models.vgg16(weights=None).features[:-1]
    return _features(*layers, out_channels=512, frozen=range(10) if frozen else ())


def resnet50_c4(frozen: int) -> nn.Module:
    """To layer3, all batch norms frozen."""
    model = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    layers = list(model.children())[:7]
    return _features(*layers, out_channels=1024, frozen=range(5) if frozen else ())


def resnet50_fpn(frozen: int) -> nn.Module:
    """As in `fasterrcnn_resnet50_fpn`."""
    return resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, trainable_layers=3 if frozen else 5
    )


def quickstart(frozen: int) -> nn.Module:
    """The ResNet-18 to layer2, from scratch."""
    layers = list(torchvision.models.resnet18(weights=None).children())[:6]
    return _features(*layers, out_channels=128, frozen=())


BACKBONES = {
    "vgg16": vgg16,
    "resnet50_c4": resnet50_c4,
    "resnet50_fpn": resnet50_fpn,
    "quickstart": quickstart,
}
# Anchor sizes of each level, and the number of boxes of a level that enter the NMS.
ANCHORS = {
    "vgg16": (((128, 256, 512),), 6000),
    "resnet50_c4": (((128, 256, 512),), 6000),
    "resnet50_fpn": (((32,), (64,), (128,), (256,), (512,)), 1000),
    "quickstart": (((20, 30, 45, 67, 90),), 1000),
}


class LastStage(nn.Sequential):
    """A ResNet's layer4 on the features of regions, as the head of boxes on C4."""

    def __init__(self):
        layer4 = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d).layer4
        super().__init__(layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _detector(name: str, frozen: int) -> nn.Module:
    """A detector of torchvision, with the network's anchors and classes."""
    masks, backbone = name.startswith("mask"), name.partition("rcnn_")[2]
    sizes, classes = ANCHORS[backbone][0], 81 if backbone == "resnet50_fpn" else 21
    if backbone == "resnet50_c4":
        sizes = ((32, 64, 128, 256, 512),)
    options = {
        "rpn_anchor_generator": AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        "min_size": 600,
        "max_size": 1000,
    }
    if backbone != "resnet50_fpn":
        size, channels = (7, 4096) if backbone == "vgg16" else (14, 2048)
        options |= {
            "rpn_pre_nms_top_n_test": 1000,
            "box_roi_pool": torchvision.ops.MultiScaleRoIAlign(["0"], size, 2),
            "box_head": TwoMLPHead(512 * 7**2, 4096) if backbone == "vgg16" else LastStage(),
            "box_predictor": FastRCNNPredictor(channels, classes),
            "box_batch_size_per_image": 512 if backbone == "vgg16" else 128,
        }
        classes = None
    make = MaskRCNN if masks else FasterRCNN
    model = make(BACKBONES[backbone](frozen), classes, **options)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[1] = benchmark_cases.LIKELY
    return model


class Detector(nn.Module):
    """torchvision's detector, from images as bytes on the host."""

    def __init__(self, name: str, layout: str, frozen: int = 0):
        super().__init__()
        self.layout = LAYOUTS[layout]
        self.model = _detector(name, frozen).to(DEVICE, memory_format=self.layout)
        if COMPILE:
            self.model.backbone = torch.compile(self.model.backbone)

    def forward(self, images: np.ndarray, precision: str, targets=None):
        """Returns the losses in training, otherwise what is found."""
        images = torch.from_numpy(images).to(DEVICE, non_blocking=True)
        images = images.permute(0, 3, 1, 2).float() / 255
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return self.model(list(images), targets)


class Network(nn.Module):
    """A backbone and torchvision's region proposal network, whose parts are called one by one.

    Its own forward computes proposals in training too, which only a detector needs.
    """

    def __init__(self, name: str, layout: str, frozen: int = 0):
        super().__init__()
        self.layout = LAYOUTS[layout]
        backbone = BACKBONES[name](frozen)
        sizes, pre = ANCHORS[name]
        head = RPNHead(backbone.out_channels, 3 * len(sizes[0]))
        self.rpn = make_rpn(Field((0, 0), (), sizes), head, pre=pre)
        self.backbone = backbone
        self.to(DEVICE, memory_format=self.layout)
        self.outputs = torch.compile(self._outputs) if COMPILE else self._outputs
        self.mean, self.std = (
            torch.tensor(values, device=DEVICE).view(1, 3, 1, 1) for values in (MEAN, STD)
        )

    def _outputs(self, images):
        features = self.backbone(images)
        features = list(features.values()) if isinstance(features, dict) else [features]
        return features, *self.rpn.head(features)

    def forward(self, images: np.ndarray, precision: str):
        """Returns anchors of each image, logits, deltas and the number of anchors of a level."""
        images = torch.from_numpy(images).to(DEVICE, non_blocking=True)
        images = images.permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        images = (images.float() / 255 - self.mean) / self.std
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bfloat16"):
            features, logits, deltas = self.outputs(images)
        logits, deltas = ([level.float() for level in levels] for levels in (logits, deltas))
        sizes = [images.shape[-2:]] * len(images)
        anchors = self.rpn.anchor_generator(ImageList(images, sizes), features)
        counts = [level[0].numel() for level in logits]
        return anchors, *concat_box_prediction_layers(logits, deltas), counts
