"""Where trained weights come from, and what a network must be like for them to mean the same.

A file holds a backbone, or a whole network: one of another project, whose conventions
`source_config` knows, or a model file of this one, which brings its config.
"""

import hashlib
import pathlib
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import RCNN, variable_shapes
from rpn_jax.runs.config import default_config, flatten, sizes_per_level
from rpn_jax.weights.files import read_arrays
from rpn_jax.weights.layouts import LAYOUTS, Layout, own_layout
from rpn_jax.weights.loading import Pretrained, load_parts, recognize
from rpn_jax.weights.model_file import flat_names, is_model_file, read_model

WHOLE_NETWORKS = tuple(layout.name for layout in LAYOUTS if "rpn" in layout.parts)
TORCHVISION = "torchvision/fasterrcnn_resnet50_fpn"
# The COCO_V1 files that torchvision publishes, by the beginning of their SHA-256, which also stands
# in their names: of Faster and of Mask R-CNN. It computes their norms with an epsilon of 0, and
# those of other weights with 1e-5 (`overwrite_eps` in torchvision 0.28); no file says which.
_EPSILON_0 = ("258fb6c6", "bf2d0c1e")


class Source(NamedTuple):
    """A file of weights that was read.

    Fields:
      path: of the file.
      layout: of its arrays.
      arrays: by the names that the layout gives them.
      config: of the network that they are of, None for a classifier's.
      knows_epsilon: whether the epsilon of the layout is surely that of these arrays' norms.
    """

    path: pathlib.Path
    layout: Layout
    arrays: dict[str, np.ndarray]
    config: ConfigDict | None
    knows_epsilon: bool = True


def read_source(path: str | pathlib.Path) -> Source:
    """Returns what a file of weights holds.

    Raises:
        UserError: it cannot be read, is damaged, or of no family known here.
    """
    path = pathlib.Path(path).expanduser()
    if not is_model_file(path):
        layout, arrays = recognize(path, read_arrays(path))
        source = Source(path, layout, arrays, source_config(layout.name))
        return _with_epsilon(source) if layout.name == TORCHVISION else source
    model = read_model(path)
    # Each leaf is in one collection alone, but which one depends on the kind of norm.
    arrays = {name.partition("/")[2]: array for name, array in flat_names(model.collections)}
    layout = own_layout(
        f"a model file ({model.source})",
        tuple({name.partition("/")[0] for name in arrays}),
        model.config.model.input_convention,
        stride_in_1x1=bool(model.config.model.stride_in_1x1),
    )
    return Source(path, layout, arrays, model.config)


def _with_epsilon(source: Source) -> Source:
    """Returns a Faster R-CNN of torchvision with the epsilon of a published file, if it is one."""
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(_EPSILON_0):
        return source._replace(knows_epsilon=False)
    return source._replace(layout=source.layout._replace(epsilon=0.0))


def source_config(name: str) -> ConfigDict | None:
    """Returns the config with which a network of another project proposes what it does there.

    `name` is that of a layout; None is returned for those of a classifier. The values are the
    defaults of torchvision 0.28 and of detectron2 0.6's model zoo (Faster R-CNN; its RPN models
    ask for more proposals). With `keep_padding`, as there, proposals also depend on the canvas.
    """
    if name not in WHOLE_NETWORKS:
        return None
    (layout,) = (layout for layout in LAYOUTS if layout.name == name)
    config = default_config()
    config.data.shorter_side, config.data.longer_side = 800, 1333
    config.model.backbone = "resnet50"
    config.model.frozen_stages = 2
    config.model.input_convention = layout.convention
    config.model.stride_in_1x1 = layout.stride_in_1x1
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
    if name == TORCHVISION:
        config.rpn.anchors.rounding = "torchvision"
        config.rpn.proposals.min_size = 1e-3
    else:
        config.rpn.loss.beta = 0.0
        if "neck" in layout.parts:
            config.rpn.proposals.train.post_nms_top_n = 1000
    return config


def load_source(config: ConfigDict, network: RCNN, source: Source) -> Pretrained:
    """Returns the parts of a network that a file has, brought to the config's order of anchors.

    They are the backbone; the neck, if both have one; and the head, unless the file's has none or
    `config.model.pretrained_head` is off. They are held against the network's shapes, for which
    nothing is compiled.

    Raises:
        UserError: as `load_pretrained`.
    """
    has = source.layout.parts
    parts = [
        "backbone",
        *(["neck"] if network.neck is not None and "neck" in has else []),
        *(["rpn"] if config.model.pretrained_head and "rpn" in has else []),
    ]
    pretrained = load_parts(
        source.path,
        source.layout,
        source.arrays,
        network,
        variable_shapes(network),
        config.model.input_convention,
        parts,
        _anchor_order(config, source) if "rpn" in parts else None,
    )
    if source.layout.name == TORCHVISION:
        title = f"{pretrained.title}, norms with epsilon {source.layout.epsilon:g}"
        pretrained = pretrained._replace(title=title)
    return pretrained


def _anchor_order(config: ConfigDict, source: Source) -> list[int]:
    """Returns, for each of the config's anchors at a position, its index among the source's."""
    wanted = meaning_of_head(source.config)
    for field, value in meaning_of_head(config).items():
        if value != wanted[field]:
            ours, theirs = (flatten(c)[field] for c in (config, source.config))
            raise UserError(
                f"config.{field}: is {ours}, but the head in {source.path} "
                f"({source.layout.title}) was trained with {theirs}; set it to that, or "
                "config.model.pretrained_head to False"
            )
    orders = [
        [theirs.index(anchor) for anchor in ours]
        for ours, theirs in zip(
            _anchors(config, sizes_outside=False),
            _anchors(source.config, source.layout.sizes_outside),
            strict=True,
        )
    ]
    if any(order != orders[0] for order in orders):
        raise UserError(
            f"config.rpn.anchors.sizes: is {config.rpn.anchors.sizes}, in an order that differs "
            f"from level to level; list them as {source.config.rpn.anchors.sizes}"
        )
    return orders[0]


def meaning_of_head(config: ConfigDict) -> dict[str, object]:
    """Returns what the outputs of a head depend on, by field, whatever the order of anchors."""
    return {
        "rpn.anchors.sizes": [sorted(sizes) for sizes in sizes_per_level(config)],
        "rpn.anchors.aspect_ratios": sorted(config.rpn.anchors.aspect_ratios),
        "rpn.anchors.rounding": config.rpn.anchors.rounding,
        "rpn.anchors.offset": config.rpn.anchors.offset,
        "rpn.box_weights": config.rpn.box_weights,
    }


def _anchors(config: ConfigDict, sizes_outside: bool) -> list[list[tuple[float, float]]]:
    """Returns size and aspect ratio of each level's anchors, in the order of a head's channels."""
    ratios = config.rpn.anchors.aspect_ratios
    return [
        [(size, ratio) for size in sizes for ratio in ratios]
        if sizes_outside
        else [(size, ratio) for ratio in ratios for size in sizes]
        for sizes in sizes_per_level(config)
    ]
