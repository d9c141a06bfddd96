"""From a config to its network, its anchors, and what it says of a batch of images."""

import functools
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset, open_dataset
from rpn_jax.data.loader import Batch
from rpn_jax.detectors.proposals import propose
from rpn_jax.errors import UserError
from rpn_jax.models.inputs import input_convention, normalize_images
from rpn_jax.models.rcnn import RegionProposalNetwork, build_rpn, init_variables
from rpn_jax.ops.anchors import cell_anchors, grid_anchors
from rpn_jax.runs.config import random_key, sizes_per_level
from rpn_jax.runs.processes import is_first
from rpn_jax.typing import Array, DeviceBatch, GroundTruth, Proposals
from rpn_jax.weights.loading import Pretrained
from rpn_jax.weights.sources import load_source, read_source


def device_batch(batch: Batch) -> DeviceBatch:
    """Returns what is sent to the devices of a host batch: pixels as bytes, no bookkeeping."""
    return DeviceBatch(
        images=batch.images,
        image_hw=batch.image_hw,
        image_index=batch.image_index.astype(np.int32),
        ground_truth=GroundTruth(batch.gt_boxes, batch.gt_valid, batch.gt_ignore),
    )


def build_network(config: ConfigDict) -> RegionProposalNetwork:
    """Returns the network of `config.model`; an impossible one is a `UserError`."""
    input_convention(config.model.input_convention)
    options = config.model.to_dict()
    del options["pretrained"], options["pretrained_head"], options["input_convention"]
    cells = anchors_at_origin(config)
    network = build_rpn(num_anchors=len(cells[0]), **options)
    if len(cells) != len(network.strides):
        raise UserError(
            f"config.anchors.sizes: number of levels is {len(cells)}, but that of the network is "
            f"{len(network.strides)} (stride {', '.join(map(str, network.strides))}); give "
            + ("a tuple of sizes for each, finest first" if network.neck else "numbers alone")
        )
    return network


def initial_variables(
    config: ConfigDict, network: RegionProposalNetwork, pretrained: Pretrained | None
) -> dict:
    """Returns variables drawn from the seed, but for the parts that are pretrained."""
    init, key = functools.partial(init_variables, network), random_key(config)
    if pretrained is None:
        return jax.jit(init)(key)
    loaded = pretrained.collections

    def drawn(key):
        params = init(key)["params"]
        return {part: tree for part, tree in params.items() if part not in loaded["params"]}

    # What is not returned is not computed: only what is not in the file is drawn.
    return {**loaded, "params": {**loaded["params"], **jax.jit(drawn)(key)}}


def anchors_at_origin(config: ConfigDict) -> tuple[np.ndarray, ...]:
    """Returns each level's (K, 4) anchors of one position; bad fields are a `UserError`."""
    fields = config.anchors
    try:
        return tuple(
            cell_anchors(sizes, fields.aspect_ratios, rounding=fields.rounding)
            for sizes in sizes_per_level(config)
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"config.anchors: {error}; correct the field") from error


def anchor_strides(
    config: ConfigDict, network: RegionProposalNetwork, height: int, width: int
) -> tuple[tuple[int, int], ...]:
    """Returns the pixels from one row, and from one column, of each level's anchors to the next.

    With `config.anchors.rounding="torchvision"` they are what they are there: the canvas divided
    by the level's cells, rounded down (61 and not 64, where 800 rows have 13 cells).
    """
    if config.anchors.rounding == "torchvision":
        grids = network.grid_hw(height, width)
        return tuple((height // max(rows, 1), width // max(columns, 1)) for rows, columns in grids)
    return tuple((stride, stride) for stride in network.strides)


def anchors_per_level(
    config: ConfigDict, network: RegionProposalNetwork, height: int, width: int
) -> tuple[Array, ...]:
    """Returns the anchors (H_l * W_l * K, 4) of each level for a canvas of that size."""
    return tuple(
        grid_anchors(cells, grid_hw, stride_hw, offset=config.anchors.offset)
        for cells, grid_hw, stride_hw in zip(
            anchors_at_origin(config),
            network.grid_hw(height, width),
            anchor_strides(config, network, height, width),
            strict=True,
        )
    )


def forward(
    config: ConfigDict, network: RegionProposalNetwork, variables, images, image_hw, **kwargs
):
    """Returns the network's logits and deltas per level (and updated variables, if mutable).

    Features of the images that are known already are given as `features`.
    """
    convention = input_convention(config.model.input_convention)
    return network.apply(variables, normalize_images(images, image_hw, convention), **kwargs)


def propose_batch(
    config: ConfigDict,
    logits,
    deltas,
    anchors,
    image_hw,
    *,
    settings: str,
    min_outputs: int = 0,
    with_nms: bool = True,
) -> Proposals:
    """Returns the proposals (B, P) of each image of a batch.

    `settings` names the counts of `config.proposals`, "train" or "test"; P is at least
    `min_outputs`, for measuring more proposals than a detector would use.
    """
    counts = config.proposals[settings]

    def propose_image(logits, deltas, image_hw):
        return propose(
            logits,
            deltas,
            anchors,
            image_hw,
            pre_nms_top_n=max(counts.pre_nms_top_n, min_outputs),
            post_nms_top_n=max(counts.post_nms_top_n, min_outputs),
            nms_threshold=config.proposals.nms_threshold if with_nms else None,
            min_size=config.proposals.min_size,
            box_weights=config.box_weights,
            keep_padding=config.proposals.keep_padding,
        )

    return jax.vmap(propose_image)(logits, deltas, image_hw)


def open_split(config: ConfigDict, split: str) -> Dataset:
    """Returns a split of the config's prepared dataset; it is a `UserError` if there is none."""
    data = config.data
    return open_dataset(
        data.dataset,
        split,
        data_dir=pathlib.Path(data.data_dir).expanduser(),
        source=data.source,
        **data.options,
    )


def check_batch_size(field: str, batch_size: int, accumulation: int = 1) -> None:
    """Raises a `UserError` that names the field unless the devices can share the batch evenly.

    With `accumulation` each device's share must be as many micro-batches.
    """
    if accumulation < 1:
        raise UserError(f"config.accumulation={accumulation}: give a number of micro-batches, or 1")
    devices = jax.device_count()
    count = devices * accumulation
    if batch_size < 1 or batch_size % count:
        micro_batches = f" in {accumulation} micro-batches each" if accumulation > 1 else ""
        raise UserError(
            f"{field}={batch_size}: {devices} devices cannot share it evenly{micro_batches}; "
            f"give a multiple of {count}"
        )


def load_pretrained(config: ConfigDict, network: RegionProposalNetwork) -> Pretrained | None:
    """Returns the parts that `config.model.pretrained` holds, None where it names no file.

    Raises:
        UserError: the file is not one of weights of this network, or they mean something else.
    """
    if not config.model.pretrained:
        return None
    source = read_source(config.model.pretrained)
    pretrained = load_source(config, network, source)
    loaded = pretrained.collections["params"]
    drawn = [part for part in ("neck", "head") if getattr(network, part) and part not in loaded]
    if is_first():
        rest = f"; drawn from the seed: {' and '.join(drawn)}" if drawn else ""
        print(f"{source.path}: {pretrained}{rest}")
    return pretrained
