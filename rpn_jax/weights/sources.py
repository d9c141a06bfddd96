"""Where trained weights come from, and what a network must be like for them to mean the same.

A file holds a backbone, or a whole network: one of another project, whose conventions
`networks.source_config` knows, or a model file of this one, which brings its config.
"""

import hashlib
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.hub import local_file
from rpn_jax.models.rcnn import RCNN, variable_shapes
from rpn_jax.runs.config import flatten, sizes_per_level
from rpn_jax.weights.class_names import class_order
from rpn_jax.weights.files import read_arrays
from rpn_jax.weights.layouts import LAST_LAYERS, Layout, Leaf, own_layout, with_axes
from rpn_jax.weights.loading import Pretrained, leaves_of, load_parts, recognize
from rpn_jax.weights.model_file import flat_names, is_model_file, read_model
from rpn_jax.weights.networks import TORCHVISION, source_config, with_depth

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
    """Returns what a file of weights holds, which may be on the Hugging Face Hub.

    Raises:
        UserError: it cannot be read, is damaged, or of no family known here.
    """
    path = local_file(path)
    if not is_model_file(path):
        layout, arrays = recognize(path, read_arrays(path))
        layout = with_axes(with_depth(layout, arrays), arrays)
        source = Source(path, layout, arrays, _config_of(layout, arrays))
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


def _config_of(layout: Layout, arrays: dict[str, np.ndarray]) -> ConfigDict | None:
    """Returns the config of another project's network, with the stages that the file has."""

    def array(*leaf: str) -> np.ndarray | None:
        return arrays.get(layout.array_name(leaf) or "")

    bias = array("box", "scores", "bias")
    if bias is None or bias.ndim != 1 or len(bias) < 2:
        return source_config(layout.name)
    has_masks = array("mask", "logits", "bias") is not None
    return source_config(layout.name, "mask_rcnn" if has_masks else "faster_rcnn", len(bias) - 1)


def _with_epsilon(source: Source) -> Source:
    """Returns an R-CNN of torchvision with the epsilon of a published file, if it is one."""
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(_EPSILON_0):
        return source._replace(knows_epsilon=False)
    return source._replace(layout=source.layout._replace(epsilon=0.0))


def load_source(config: ConfigDict, network: RCNN, source: Source) -> Pretrained:
    """Returns the parts of a network that a file has, brought to the config's order of anchors.

    They are the backbone; the neck, if both have one; and the heads, unless the file has none or
    `config.model.pretrained_head` is off. Of a detector of other classes, or without
    `config.model.pretrained_last`, the last layers are left out; classes in another order are
    brought to the config's. The arrays are held against the network's shapes, for which nothing is
    compiled.

    Raises:
        UserError: as `load_pretrained`.
    """
    has, shapes = source.layout.parts, variable_shapes(network)
    heads = [
        part
        for part in ("rpn", "box", "mask")
        if config.model.pretrained_head and part in has and getattr(network, part) is not None
    ]
    neck = ["neck"] if network.neck is not None and "neck" in has else []
    pretrained = load_parts(
        source.path,
        source.layout,
        source.arrays,
        network,
        shapes,
        config.model.input_convention,
        ["backbone", *neck, *heads],
        _anchor_order(config, source) if "rpn" in heads else None,
        [
            leaf
            for part in ("box", "mask")
            if part in heads
            for leaf in _left_out(config, source, part, leaves_of(shapes, [part]))
        ],
        _class_order(config, source) if "box" in heads else None,
    )
    if source.layout.name == TORCHVISION:
        title = f"{pretrained.title}, norms with epsilon {source.layout.epsilon:g}"
        pretrained = pretrained._replace(title=title)
    return pretrained


def _left_out(config: ConfigDict, source: Source, part: str, leaves: Iterable[Leaf]) -> list[Leaf]:
    """Returns the leaves of a head of regions that the file has not, or has for other classes."""
    if source.config is None or part not in source.config:
        return [leaf for leaf in leaves if source.layout.array_name(leaf) not in source.arrays]
    if _class_order(config, source) is None or not config.model.pretrained_last:
        return [leaf for leaf in leaves if leaf[:2] in LAST_LAYERS]
    if config.box.box_weights != source.config.box.box_weights:
        raise _other_meaning("box.box_weights", config, source)
    return []


def _class_order(config: ConfigDict, source: Source) -> list[int] | None:
    """Returns, for each of the config's classes, its place among the source's; None for others."""
    if source.config is None or "box" not in source.config:
        return None
    return class_order(config.box.class_names, source.config.box.class_names)


def _anchor_order(config: ConfigDict, source: Source) -> list[int]:
    """Returns, for each of the config's anchors at a position, its index among the source's."""
    wanted = meaning_of_head(source.config)
    for field, value in meaning_of_head(config).items():
        if value != wanted[field]:
            raise _other_meaning(field, config, source)
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


def _other_meaning(field: str, config: ConfigDict, source: Source) -> UserError:
    ours, theirs = (flatten(c)[field] for c in (config, source.config))
    return UserError(
        f"config.{field}: is {ours}, but the head in {source.path} ({source.layout.title}) was "
        f"trained with {theirs}; set it to that, or config.model.pretrained_head to False"
    )


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
