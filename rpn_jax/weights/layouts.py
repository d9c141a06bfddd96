"""The names that other projects give to the arrays of a network, and what else they do otherwise.

A *leaf* is the place of an array in a network here, without its collection: its part, the module
in that part and the array, ("backbone", "c3", "conv3_1", "kernel"). A layout is one family of
files. Its table runs from leaf to name, so that it serves to read such files and to write them.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from rpn_jax.models.layers.norms import EPSILON
from rpn_jax.weights import modules
from rpn_jax.weights.modules import Module

Leaf = tuple[str, ...]


class Dialect(NamedTuple):
    """How a project writes down the arrays of a module.

    Fields:
      separator: between the module's name and the array's.
      kernel_axes: the file's axes in the order height, width, in, out.
      of_convolution: its names for "kernel" and "bias", also of fully connected layers.
      of_norm: its names for "scale", "bias", "mean" and "var".
    """

    separator: str
    kernel_axes: tuple[int, int, int, int]
    of_convolution: Mapping[str, str]
    of_norm: Mapping[str, str]


def _arrays(*names: str) -> dict[str, str]:
    ours = ("kernel", "bias") if len(names) == 2 else ("scale", "bias", "mean", "var")
    return dict(zip(ours, names, strict=True))


HWIO, OIHW = (0, 1, 2, 3), (2, 3, 1, 0)
# What a detector that is trained on other classes has to learn anew.
LAST_LAYERS = (("box", "scores"), ("box", "deltas"), ("mask", "logits"))
_CAFFE = Dialect("_", HWIO, _arrays("w", "b"), {})
_TORCH = Dialect(
    ".",
    OIHW,
    _arrays("weight", "bias"),
    _arrays("weight", "bias", "running_mean", "running_var"),
)
_KERAS = Dialect(
    "/",
    HWIO,
    _arrays("kernel", "bias"),
    _arrays("gamma", "beta", "moving_mean", "moving_variance"),
)
_OWN = Dialect("/", HWIO, _arrays("kernel", "bias"), _arrays("scale", "bias", "mean", "var"))


class Layout(NamedTuple):
    """One family of files, and what its networks do otherwise than those here by default.

    Fields:
      name: of the family; that of a whole network is what `import-weights --model` takes.
      title: of the family.
      signature: arrays that every such file has, and none of the families below it has them all;
        separated by spaces.
      dialect: how it writes down arrays.
      parts: for each part of a network that it has, the module's name in the file, None for a
        module that it has not.
      convention: what pixels it was trained on, a name of `inputs.CONVENTIONS`.
      former_names: patterns of older names, and what they are called now.
      epsilon: of its batch normalisation.
      norm: what `build_rcnn` must be told for a backbone with norms that it has not by default.
      stride_in_1x1: where its bottlenecks stride, see `resnet.ResidualBlock`.
      sizes_outside: whether the head's channels have the sizes of anchors as the outer loop and
        their ratios as the inner one.
      background_last: whether the last class is background, for which there is neither box nor mask
        then.
    """

    name: str
    title: str
    signature: str
    dialect: Dialect
    parts: Mapping[str, Callable[[Module], str | None]]
    convention: str
    former_names: tuple[tuple[str, str], ...] = ()
    epsilon: float = EPSILON
    norm: str | None = None
    stride_in_1x1: bool = False
    sizes_outside: bool = False
    background_last: bool = False

    @property
    def model(self) -> str:
        """The name without the project, such as "resnet"."""
        return self.name.partition("/")[2]

    def array_name(self, leaf: Leaf) -> str | None:
        """Returns the name that such a file has for a leaf, None if it has nothing of the kind."""
        part, *module, array = leaf
        name = self.parts[part](tuple(module)) if part in self.parts else None
        is_norm = module[-1].startswith("norm")
        arrays = self.dialect.of_norm if is_norm else self.dialect.of_convolution
        if name is None or array not in arrays:
            return None
        return f"{name}{self.dialect.separator}{arrays[array]}"

    def present_name(self, name: str) -> str:
        """Returns what an array of that name is called today."""
        for pattern, replacement in self.former_names:
            name = re.sub(pattern, replacement, name)
        return name


def with_axes(layout: Layout, arrays: Mapping[str, np.ndarray]) -> Layout:
    """Returns the layout of a file, with Caffe's own order of axes if the arrays have that one."""
    first = min((array for array in arrays.values() if array.ndim == 4), key=np.size, default=None)
    if layout.dialect is not _CAFFE or first is None or first.shape[0] <= first.shape[-1]:
        return layout
    return layout._replace(dialect=_CAFFE._replace(kernel_axes=OIHW))


def own_layout(
    title: str, parts: tuple[str, ...], convention: str, *, stride_in_1x1: bool
) -> Layout:
    """Returns the layout of this project's own arrays, named by their leaves with slashes."""
    names = {part: _behind(f"{part}/", "/".join) for part in parts}
    if "backbone" in names:  # its last stage may begin as a head
        names.setdefault("box", _behind("backbone/", "/".join))
    return Layout(
        name="rpn_jax",
        title=title,
        signature="",
        dialect=_OWN,
        parts=names,
        convention=convention,
        stride_in_1x1=stride_in_1x1,
    )


def _behind(
    prefix: str, module_name: Callable[[Module], str | None]
) -> Callable[[Module], str | None]:
    def name(module):
        rest = module_name(module)
        return None if rest is None else prefix + rest

    return name


# py-faster-rcnn's alternating training has another name, and a slash may have been replaced.
_CAFFE_RPN_NAMES = ((r"^rpn_conv(1|_3x3)_", "rpn_conv/3x3_"),)
_KERAS_EPSILON = 1.001e-5
# Keras 3 numbers the arrays of a layer in its `.weights.h5`.
_KERAS_3_NAMES = (
    *((rf"bn/{i}$", f"bn/{name}") for i, name in enumerate(_KERAS.of_norm.values())),
    (r"/0$", "/kernel"),
    (r"/1$", "/bias"),
)

LAYOUTS = (
    Layout(
        name="py-faster-rcnn/vgg16",
        title="py-faster-rcnn's VGG-16",
        signature="rpn_cls_score_w conv1_1_w",
        dialect=_CAFFE,
        parts={
            "backbone": modules.CAFFE_VGG.get,
            "rpn": modules.CAFFE_HEAD.get,
            "box": modules.CAFFE_BOX.get,
        },
        convention="py_faster_rcnn",
        former_names=_CAFFE_RPN_NAMES,
    ),
    Layout(
        name="py-faster-rcnn/zf",
        title="py-faster-rcnn's ZF",
        signature="rpn_cls_score_w conv1_w",
        dialect=_CAFFE,
        parts={
            "backbone": modules.CAFFE_ZF.get,
            "rpn": modules.CAFFE_HEAD.get,
            "box": modules.CAFFE_BOX.get,
        },
        convention="py_faster_rcnn",
        former_names=_CAFFE_RPN_NAMES,
    ),
    Layout(
        name="caffe/vgg16",
        title="Caffe's VGG-16",
        signature="conv1_1_w",
        dialect=_CAFFE,
        parts={"backbone": modules.CAFFE_VGG.get, "box": modules.CAFFE_FC.get},
        convention="caffe",
    ),
    Layout(
        name="caffe/zf",
        title="Caffe's ZF",
        signature="conv1_w",
        dialect=_CAFFE,
        parts={"backbone": modules.CAFFE_ZF.get, "box": modules.CAFFE_FC.get},
        convention="caffe",
    ),
    Layout(
        name="torchvision/alexnet",
        title="torchvision's AlexNet",
        signature="features.6.weight",
        dialect=_TORCH,
        parts={
            "backbone": modules.TORCHVISION_ALEXNET.get,
            "box": modules.TORCHVISION_ALEXNET_FC.get,
        },
        convention="torchvision",
    ),
    Layout(
        name="torchvision/vgg16",
        title="torchvision's VGG-16",
        signature="features.2.weight",
        dialect=_TORCH,
        parts={"backbone": modules.TORCHVISION_VGG.get, "box": modules.TORCHVISION_VGG_FC.get},
        convention="torchvision",
    ),
    Layout(
        name="torchvision/vgg16_bn",
        title="torchvision's VGG-16 with batch normalisation",
        signature="features.1.running_mean",
        dialect=_TORCH,
        parts={"backbone": modules.TORCHVISION_VGG_BN.get, "box": modules.TORCHVISION_VGG_FC.get},
        convention="torchvision",
        norm="frozen_batch_norm",
    ),
    Layout(
        name="torchvision/resnet",
        title="torchvision's ResNet",
        signature="layer1.0.conv1.weight",
        dialect=_TORCH,
        parts={"backbone": modules.torchvision_resnet, "box": modules.torchvision_resnet},
        convention="torchvision",
    ),
    Layout(
        name="torchvision/densenet",
        title="torchvision's DenseNet",
        signature="features.denseblock1.denselayer1.conv1.weight",
        dialect=_TORCH,
        parts={"backbone": modules.torchvision_densenet},
        convention="torchvision",
        former_names=((r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2"),),
    ),
    Layout(
        name="keras/vgg16",
        title="Keras's VGG-16",
        signature="block1_conv1/kernel",
        dialect=_KERAS,
        parts={"backbone": modules.KERAS_VGG.get, "box": modules.KERAS_FC.get},
        convention="keras_caffe",
        former_names=(
            (r"(block\d_conv\d)/\1_W_1$", r"\1/kernel"),
            (r"(block\d_conv\d)/\1_b_1$", r"\1/bias"),
            *_KERAS_3_NAMES,
        ),
    ),
    Layout(
        name="keras/resnet",
        title="Keras's ResNet",
        signature="conv2_block1_0_conv/kernel",
        dialect=_KERAS,
        parts={"backbone": modules.keras_resnet, "box": modules.keras_resnet},
        convention="keras_caffe",
        former_names=_KERAS_3_NAMES,
        epsilon=_KERAS_EPSILON,
        stride_in_1x1=True,
    ),
    Layout(
        name="keras/densenet",
        title="Keras's DenseNet",
        signature="pool2_conv/kernel",
        dialect=_KERAS,
        parts={"backbone": modules.keras_densenet},
        convention="torchvision",
        former_names=((r"^conv1_(conv|bn)/", r"conv1/\1/"), *_KERAS_3_NAMES),
        epsilon=_KERAS_EPSILON,
    ),
    Layout(
        name="torchvision/fasterrcnn_resnet50_fpn_v2",
        title="torchvision's R-CNN v2 with an FPN",
        signature="backbone.body.layer1.0.conv1.weight backbone.fpn.inner_blocks.0.1.weight",
        dialect=_TORCH,
        parts={
            "backbone": _behind("backbone.body.", modules.torchvision_resnet),
            "neck": modules.TORCHVISION_FPN_V2.get,
            "rpn": modules.TORCHVISION_HEAD.get,
            "box": modules.TORCHVISION_BOX_V2.get,
            "mask": modules.TORCHVISION_MASK_V2.get,
        },
        convention="torchvision",
    ),
    Layout(
        name="torchvision/fasterrcnn_resnet50_fpn",
        title="torchvision's R-CNN with an FPN",
        signature="backbone.body.layer1.0.conv1.weight",
        dialect=_TORCH,
        parts={
            "backbone": _behind("backbone.body.", modules.torchvision_resnet),
            "neck": modules.TORCHVISION_FPN.get,
            "rpn": modules.TORCHVISION_HEAD.get,
            "box": modules.TORCHVISION_BOX.get,
            "mask": modules.TORCHVISION_MASK.get,
        },
        convention="torchvision",
        former_names=(
            (r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
            (r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
            *((rf"mask_head\.mask_fcn{i}\.", f"mask_head.{i - 1}.0.") for i in range(1, 5)),
        ),
    ),
    Layout(
        name="detectron2/r50_dc5",
        title="detectron2's R-CNN on dilated C5",
        signature="backbone.res5.0.conv1.weight",
        dialect=_TORCH,
        parts={
            "backbone": _behind("backbone.", modules.detectron2_resnet),
            "rpn": modules.DETECTRON2_HEAD.get,
            "box": modules.DETECTRON2_BOX.get,
            "mask": modules.DETECTRON2_MASK.get,
        },
        convention="detectron2",
        stride_in_1x1=True,
        sizes_outside=True,
        background_last=True,
    ),
    Layout(
        name="detectron2/r50_c4",
        title="detectron2's R-CNN on C4",
        signature="backbone.stem.conv1.weight",
        dialect=_TORCH,
        parts={
            "backbone": _behind("backbone.", modules.detectron2_resnet),
            "rpn": modules.DETECTRON2_HEAD.get,
            "box": modules.detectron2_c4_box,
            "mask": modules.DETECTRON2_MASK.get,
        },
        convention="detectron2",
        stride_in_1x1=True,
        sizes_outside=True,
        background_last=True,
    ),
    Layout(
        name="detectron2/r50_fpn",
        title="detectron2's R-CNN with an FPN",
        signature="backbone.bottom_up.stem.conv1.weight",
        dialect=_TORCH,
        parts={
            "backbone": _behind("backbone.bottom_up.", modules.detectron2_resnet),
            "neck": modules.DETECTRON2_FPN.get,
            "rpn": modules.DETECTRON2_HEAD.get,
            "box": modules.DETECTRON2_BOX.get,
            "mask": modules.DETECTRON2_MASK.get,
        },
        convention="detectron2",
        stride_in_1x1=True,
        sizes_outside=True,
        background_last=True,
    ),
)


def layout_called(name: str) -> Layout:
    """Returns the layout of that name."""
    return next(layout for layout in LAYOUTS if layout.name == name)
