"""The command `info`: a description of a config's network, anchors and output layers."""

import math
from collections.abc import Sequence

from ml_collections import ConfigDict

from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import RCNN
from rpn_jax.models.summary import Layer, summarize
from rpn_jax.ops.anchors import inside_image
from rpn_jax.runs.config import flatten, sizes_per_level
from rpn_jax.tables import format_table
from rpn_jax.training.build import build_network
from rpn_jax.training.splits import with_known_classes
from rpn_jax.training.stages import proposal_stage


def describe(config: ConfigDict, image_hw: tuple[int, int] | None = None) -> str:
    """Returns tables of the network, its anchors and the size of its output layers.

    Shapes are for a canvas of `image_hw` pixels. The default canvas is a 4:3 landscape picture,
    `config.data.shorter_side` high, and as wide as `config.data.longer_side` allows.

    Raises:
        UserError: the network or the anchors are impossible, or the canvas has no position.
    """
    config = with_known_classes(config)
    network = build_network(config)
    height, width = image_hw or _typical_hw(config)
    if 0 in (side for grid_hw in network.grid_hw(height, width) for side in grid_hw):
        raise UserError(
            f"an image of {height} x {width} pixels is too small for a network of stride "
            f"{max(network.strides)}; give a larger --image_size or config.data.shorter_side"
        )
    of_regions = "data.proposals.eval_top_n"
    if "rpn" in config:
        of_regions = "rpn.proposals.test.post_nms_top_n"
    regions = flatten(config)[of_regions]
    masks = config.box.detections.top_n if "mask" in config else 0
    frozen = config.model.frozen_stages, config.model.frozen_neck
    layers = summarize(network, height, width, frozen[0], regions, masks, frozen[1])
    origin = "as given" if image_hw else "shorter_side by 4/3 of it, at most longer_side"
    neck = f" with {config.model.neck}" if config.model.neck else ""
    parts = [
        f"{config.model.backbone}{neck} on an image of {height} x {width} pixels "
        f"(height x width; {origin})",
        _network_table(layers, f"{regions} of config.{of_regions}", masks),
    ]
    if "rpn" in config:
        parts.append(_anchor_table(config, network, height, width))
        parts.append(_output_layers(config.rpn.objectness, layers))
    return "\n\n".join(parts)


def _typical_hw(config: ConfigDict) -> tuple[int, int]:
    shorter, longer = config.data.shorter_side, config.data.longer_side
    return min(shorter, longer), min(round(shorter * 4 / 3), longer)


def _network_table(layers: Sequence[Layer], regions: str, masks: int) -> str:
    columns = "layer", "output (H x W x C)", "stride", "field", "parameters", "GFLOP", "frozen"
    rows = [
        (
            layer.name,
            " x ".join(map(str, layer.shape)),
            str(layer.stride or "-"),
            str(layer.receptive_field or "-"),
            f"{layer.parameters:,}",
            f"{layer.flops / 1e9:.3f}",
            "yes" if layer.frozen else "no",
        )
        for layer in layers
    ]
    parameters = sum(layer.parameters for layer in layers)
    frozen = sum(layer.parameters for layer in layers if layer.frozen)
    flops = sum(layer.flops for layer in layers)
    total = ("total", "", "", "", f"{parameters:,}", f"{flops / 1e9:.3f}", f"{frozen:,}")
    of_regions = []
    if any(layer.name.startswith("box/") for layer in layers):
        of_regions = [f"box: the output of one region, and the GFLOP of the {regions}"]
    if masks:
        of_regions.append(f"mask: the same, of the {masks} of config.box.detections.top_n")
    return "\n".join(
        [
            format_table([columns, *rows, total]),
            "field: side of the receptive field in input pixels (borders and norms apart)",
            "GFLOP: 1e9 multiply-adds x 2 of the convolutions, forward, for one image",
            "parameters: without the constants of batch normalisation",
            "frozen: not trained; in the total, how many parameters",
            *of_regions,
        ]
    )


def _anchor_table(config: ConfigDict, network: RCNN, height: int, width: int) -> str:
    fields = config.rpn.anchors
    anchors = proposal_stage(config).anchors(network, height, width)
    strides = proposal_stage(config).strides_hw(network, height, width)
    rows = [("anchors of level", "stride", "grid (H x W)", "k", "in all", "inside the image")]
    grids = network.grid_hw(height, width)
    for level, boxes in enumerate(anchors):
        grid = "{} x {}".format(*grids[level])
        k = len(boxes) // math.prod(grids[level])
        inside = int(inside_image(boxes, height, width).sum())
        rows.append(
            tuple(map(str, (level, format_stride(strides[level]), grid, k, len(boxes), inside)))
        )
    *sizes, ratios = (
        " ".join(f"{value:g}" for value in values)
        for values in (*sizes_per_level(config), fields.aspect_ratios)
    )
    return "\n".join(
        [
            format_table(rows),
            f"sizes (square root of the area, pixels): {' | '.join(sizes)}"
            f"{', a level each' if len(sizes) > 1 else ''}",
            f"aspect ratios (width / height): {ratios}",
        ]
    )


def format_stride(stride_hw: tuple[int, int]) -> str:
    """Returns the stride as text: one number if both are equal."""
    return " x ".join(map(str, dict.fromkeys(stride_hw)))


def _output_layers(objectness: str, layers: Sequence[Layer]) -> str:
    """Returns our output layers beside the two that section 3.1.1 of the paper compares."""
    by_name = {layer.name: layer for layer in reversed(layers)}  # the first of several levels
    channels = by_name["rpn/conv"].shape[-1]
    classifier, regressor = by_name["rpn/objectness"], by_name["rpn/deltas"]
    k = regressor.shape[-1] // 4
    scores = classifier.shape[-1] // k
    rows = [
        ("this network", channels, 4, scores, k, classifier.weights + regressor.weights),
        ("the paper's RPN", 512, 4, 2, 9, 512 * (4 + 2) * 9),
        ("MultiBox", 1536, 4, 1, 800, 1536 * (4 + 1) * 800),
    ]
    table = [("weights of the output layers", "channels x (box + scores) x anchors", "", "")]
    for name, *factors, count in rows:
        rounded = f"{count:.1e}".replace("e+0", "e")
        table.append((name, "{} x ({} + {}) x {}".format(*factors), f"{count:,}", rounded))
    return "\n".join(
        [
            format_table(table),
            "this network: counted from the kernels of its two sibling 1x1 convolutions, with "
            f"{scores} score{'s' if scores > 1 else ''} ({objectness})",
            "the others: as section 3.1.1 of the paper counts them",
        ]
    )
