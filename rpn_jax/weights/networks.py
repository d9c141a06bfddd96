"""Networks of other projects: configs with which theirs find here what they find there.

The values are the defaults of torchvision 0.28 and of detectron2 0.6's model zoo (Faster R-CNN;
its RPN models ask for more proposals).
"""

from ml_collections import ConfigDict

from rpn_jax.runs.config import default_config
from rpn_jax.weights.class_names import classes_of
from rpn_jax.weights.layouts import LAYOUTS, Layout

WHOLE_NETWORKS = tuple(layout.name for layout in LAYOUTS if "rpn" in layout.parts)
TORCHVISION = "torchvision/fasterrcnn_resnet50_fpn"
_COCO_CLASSES = {"torchvision": 90, "detectron2": 80}


def source_config(
    name: str, detector: str = "rpn", num_classes: int | None = None
) -> ConfigDict | None:
    """Returns the config with which a network of another project finds what it does there.

    With `keep_padding`, as there, what is found also depends on the canvas.

    Args:
        name: of a layout; None is returned for those of a classifier.
        detector: "rpn" for its first stage alone, "faster_rcnn" for both.
        num_classes: without background; by default those of its project's COCO models.
    """
    if name not in WHOLE_NETWORKS:
        return None
    (layout,) = (layout for layout in LAYOUTS if layout.name == name)
    config = default_config(detector)
    config.data.shorter_side, config.data.longer_side = 800, 1333
    config.model.backbone = "resnet50"
    config.model.frozen_stages = 2
    config.model.input_convention = layout.convention
    config.model.stride_in_1x1 = layout.stride_in_1x1
    _set_rpn(config, layout)
    if detector != "rpn":
        _set_box(config, layout, num_classes)
    return config


def _set_rpn(config: ConfigDict, layout: Layout) -> None:
    config.rpn.anchors.aspect_ratios = (2.0, 1.0, 0.5)  # theirs are height / width: 0.5, 1, 2
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
        config.rpn.channels = 256
        config.rpn.anchors.sizes = tuple((size,) for size in sizes)
    else:
        config.rpn.channels = 1024
        config.rpn.anchors.sizes = sizes
        config.rpn.proposals.train.pre_nms_top_n = 12_000
        config.rpn.proposals.test.pre_nms_top_n = 6000
    if layout.name == TORCHVISION:
        config.rpn.anchors.rounding = "torchvision"
        config.rpn.proposals.min_size = 1e-3
    else:
        config.rpn.loss.beta = 0.0
        if "neck" in layout.parts:
            config.rpn.proposals.train.post_nms_top_n = 1000


def _set_box(config: ConfigDict, layout: Layout, num_classes: int | None) -> None:
    project = layout.name.partition("/")[0]
    classes = classes_of(num_classes or _COCO_CLASSES[project])
    config.box.class_names, config.box.category_ids = classes.names, classes.category_ids
    config.box.channels = 1024
    config.box.dropout = 0.0
    config.box.pooling.kind = "align"
    config.box.targets.batch_size_per_image = 512
    if layout.name == TORCHVISION:
        config.box.loss.beta = 1 / 9
        config.box.detections.min_size = 1e-2
