"""Networks of other projects: configs with which theirs find here what they find there.

The values are the defaults of torchvision 0.28 and of detectron2 0.6's model zoo (Faster R-CNN;
its RPN models ask for more proposals).
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

from rpn_jax.runs.config import default_config
from rpn_jax.weights.class_names import classes_of
from rpn_jax.weights.layouts import LAYOUTS, Layout

TORCHVISION = "torchvision/fasterrcnn_resnet50_fpn"
TORCHVISION_V2 = f"{TORCHVISION}_v2"
_TORCHVISIONS = (TORCHVISION, TORCHVISION_V2)
_WHOLE = {layout.name: layout for layout in LAYOUTS if "rpn" in layout.parts}
# detectron2's two depths have the same names of arrays.
_WHOLE |= {
    name.replace("r50", "r101"): layout._replace(name=name.replace("r50", "r101"))
    for name, layout in _WHOLE.items()
    if name.startswith("detectron2/")
}
# torchvision's Mask R-CNN has its own name, and the arrays of its Faster R-CNN with more to them.
_WHOLE |= {name.replace("faster", "mask"): _WHOLE[name] for name in _TORCHVISIONS}
WHOLE_NETWORKS = tuple(_WHOLE)
_NUM_CLASSES = {"torchvision": 90, "detectron2": 80, "py-faster-rcnn": 20}


def with_depth(layout: Layout, names: Iterable[str]) -> Layout:
    """Returns the layout of a file with arrays of these names: with the depth of its ResNet."""
    if layout.name in _WHOLE and any(".res4.22." in name for name in names):
        return _WHOLE[layout.name.replace("r50", "r101")]
    return layout


def source_config(
    name: str, detector: str = "rpn", num_classes: int | None = None
) -> ConfigDict | None:
    """Returns the config with which a network of another project finds what it does there.

    With `keep_padding`, as there, what is found also depends on the canvas.

    Args:
        name: of a layout; None is returned for those of a classifier.
        detector: "rpn" for its first stage alone, "faster_rcnn" for two, "mask_rcnn" for three.
        num_classes: without background; by default those of its project's usual models.
    """
    if name not in _WHOLE:
        return None
    layout, project = _WHOLE[name], name.partition("/")[0]
    config = default_config(detector)
    config.model.frozen_stages = 2
    config.model.input_convention = layout.convention
    config.rpn.anchors.aspect_ratios = (2.0, 1.0, 0.5)  # theirs are height / width: 0.5, 1, 2
    set_rpn, set_box = _PROJECTS[project]
    set_rpn(config, layout)
    if detector != "rpn":
        classes = classes_of(num_classes or _NUM_CLASSES[project])
        config.box.class_names, config.box.category_ids = classes.names, classes.category_ids
        set_box(config, layout)
    if detector == "mask_rcnn":
        _set_mask(config, layout)
    return config


def is_named(layout: Layout, detector: str, name: str) -> bool:
    """Returns whether a file of that layout, with such a detector, is a whole network `name`."""
    return layout.name == _WHOLE[name].name and (detector == "mask_rcnn" or "/mask" not in name)


def _set_caffe_rpn(config: ConfigDict, layout: Layout) -> None:
    config.model.ceil_pools = True
    if layout.name.endswith("zf"):
        config.model.backbone = "zf"
        config.rpn.channels = 256
    config.rpn.objectness = "softmax"
    config.rpn.anchors.rounding = "caffe"
    config.rpn.loss.normalizer = "sampled"
    config.rpn.loss.balance = 1.0
    config.rpn.proposals.min_size = 16.0  # there it grows with the image


def _set_caffe_box(config: ConfigDict, layout: Layout) -> None:
    """The layers say raw deltas: py-faster-rcnn puts its weights into them when it saves."""
    config.box.pooling.size = 6 if layout.name.endswith("zf") else 7
    config.box.box_weights = (1.0, 1.0, 1.0, 1.0)
    config.box.detections.nms_threshold = 0.3


def _set_rpn(config: ConfigDict, layout: Layout) -> None:
    config.data.shorter_side, config.data.longer_side = 800, 1333
    config.model.backbone = "resnet101" if "r101" in layout.name else "resnet50"
    config.model.stride_in_1x1 = layout.stride_in_1x1
    config.rpn.anchors.offset = 0.0
    config.rpn.targets.drop_straddling = False
    config.rpn.loss.normalizer = "sampled"
    config.rpn.loss.balance = 1.0
    config.rpn.proposals.train.pre_nms_top_n = 2000
    config.rpn.proposals.train.post_nms_top_n = 2000
    config.rpn.proposals.test.pre_nms_top_n = 1000
    config.rpn.proposals.test.post_nms_top_n = 1000
    config.rpn.proposals.keep_padding = True
    sizes = (32.0, 64.0, 128.0, 256.0, 512.0)
    if "neck" in layout.parts:
        config.model.neck = "fpn"
        if layout.name == TORCHVISION_V2:
            config.model.fpn_norm = "frozen_batch_norm"
            config.rpn.convolutions = 2
        config.rpn.channels = 256
        config.rpn.anchors.sizes = tuple((size,) for size in sizes)
    else:
        is_dilated = layout.name.endswith("dc5")
        config.model.dilate_c5 = is_dilated or None
        config.rpn.channels = 2048 if is_dilated else 1024
        config.rpn.anchors.sizes = sizes
        config.rpn.proposals.train.pre_nms_top_n = 12_000
        config.rpn.proposals.test.pre_nms_top_n = 6000
    if layout.name in _TORCHVISIONS:
        config.rpn.anchors.rounding = "torchvision"
        config.rpn.proposals.min_size = 1e-3
    else:
        config.rpn.loss.beta = 0.0
        if "neck" in layout.parts:
            config.rpn.proposals.train.post_nms_top_n = 1000


def _set_box(config: ConfigDict, layout: Layout) -> None:
    config.box.channels = 1024
    config.box.dropout = 0.0
    config.box.pooling.kind = "align"
    config.box.targets.batch_size_per_image = 512
    if layout.name in _TORCHVISIONS:
        config.box.loss.beta = 1 / 9
        config.box.detections.min_size = 1e-2
        if layout.name == TORCHVISION_V2:
            config.box.head, config.box.norm = "conv", "frozen_batch_norm"
        return
    config.box.loss.beta = 0.0
    config.box.pooling.aligned = True
    config.box.pooling.sampling_ratio = 0
    # There it is added within the logarithm, which is the same: less than float32 can tell.
    config.box.pooling.level_eps = 1e-8
    if layout.name.endswith("_c4"):
        config.box.head = "c5"
        config.box.pooling.size = 14


def _set_mask(config: ConfigDict, layout: Layout) -> None:
    if layout.name in _TORCHVISIONS:
        config.mask.targets.soft, config.mask.targets.aligned = True, False
        config.mask.pasting = "torchvision"
        if layout.name == TORCHVISION_V2:
            config.mask.norm = "frozen_batch_norm"
        return
    config.mask.pooling.aligned = True
    config.mask.pooling.sampling_ratio = 0
    config.mask.pooling.level_eps = 1e-8
    if layout.name.endswith("_c4"):
        config.mask.convolutions = 0


_PROJECTS = {
    "torchvision": (_set_rpn, _set_box),
    "detectron2": (_set_rpn, _set_box),
    "py-faster-rcnn": (_set_caffe_rpn, _set_caffe_box),
}
