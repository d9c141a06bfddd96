"""From a config to its network, its anchors, and what it says of a batch of images."""

import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset, open_dataset
from rpn_jax.data.loader import Batch
from rpn_jax.errors import UserError
from rpn_jax.models import RegionProposalNetwork, build_rpn, pretrained
from rpn_jax.models.inputs import input_convention, normalize_images
from rpn_jax.models.pretrained import Backbone
from rpn_jax.ops.anchors import cell_anchors, grid_anchors
from rpn_jax.proposals import propose
from rpn_jax.training.weight_files import read_arrays
from rpn_jax.typing import Array, GroundTruth, Proposals


class DeviceBatch(NamedTuple):
    """The part of a `Batch` that the devices see; B is the images of one device inside a step."""

    images: Array  # (B, H, W, 3) uint8 RGB
    image_hw: Array  # (B, 2) float32, the image's extent on its canvas
    image_index: Array  # (B,) int32, in the split
    ground_truth: GroundTruth


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
    del options["pretrained"], options["input_convention"]
    return build_rpn(num_anchors=len(anchors_at_origin(config)), **options)


def _init(config: ConfigDict, network: RegionProposalNetwork) -> dict:
    """Returns variables drawn from the seed; the size of the image plays no part in them."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return network.init(key, np.zeros((1, 64, 64, 3), np.float32))


def load_backbone(config: ConfigDict, network: RegionProposalNetwork) -> Backbone | None:
    """Returns the arrays of the pretrained backbone, None where the config names none.

    The file is held against the network's shapes; nothing is compiled for that.

    Raises:
        UserError: the file is not one of weights of this network, or wants other input.
    """
    if not config.model.pretrained:
        return None
    shapes = jax.eval_shape(functools.partial(_init, config, network))
    path = pathlib.Path(config.model.pretrained).expanduser()
    convention = config.model.input_convention
    backbone = pretrained.load_backbone(path, read_arrays(path), network, shapes, convention)
    if jax.process_index() == 0:
        print(f"backbone from {path}: {backbone}")
    return backbone


def initial_variables(
    config: ConfigDict, network: RegionProposalNetwork, backbone: Backbone | None
) -> dict:
    """Returns variables drawn from the seed, with the pretrained backbone where there is one."""
    init = functools.partial(_init, config, network)
    if backbone is None:
        return jax.jit(init)()
    # What is not returned is not computed: only the head is drawn.
    head = jax.jit(lambda: init()["params"]["head"])()
    variables = {name: {"backbone": arrays} for name, arrays in backbone.collections.items()}
    variables["params"]["head"] = head
    return variables


def anchors_at_origin(config: ConfigDict) -> np.ndarray:
    """Returns the (K, 4) anchors of one position; impossible fields are a `UserError`."""
    fields = config.anchors
    try:
        return cell_anchors(fields.sizes, fields.aspect_ratios, rounding=fields.rounding)
    except ValueError as error:
        raise UserError(f"config.anchors: {error}; correct the field") from error


def anchors_per_level(
    config: ConfigDict, network: RegionProposalNetwork, height: int, width: int
) -> tuple[Array, ...]:
    """Returns the anchors (H_l * W_l * K, 4) of each level for a canvas of that size."""
    cells = anchors_at_origin(config)
    return tuple(
        grid_anchors(cells, grid_hw, (stride, stride), offset=config.anchors.offset)
        for grid_hw, stride in zip(network.grid_hw(height, width), network.strides, strict=True)
    )


def forward(
    config: ConfigDict, network: RegionProposalNetwork, variables, images, image_hw, **kwargs
):
    """Returns the network's logits and deltas per level (and updated variables, if mutable)."""
    convention = input_convention(config.model.input_convention)
    return network.apply(variables, normalize_images(images, image_hw, convention), **kwargs)


def propose_batch(
    config: ConfigDict, logits, deltas, anchors, image_hw, *, settings: str, min_outputs: int = 0
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
            nms_threshold=config.proposals.nms_threshold,
            min_size=config.proposals.min_size,
            box_weights=config.box_weights,
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


def check_batch_size(field: str, batch_size: int) -> None:
    """Raises a `UserError` that names the field unless the devices can share the batch evenly."""
    count = jax.device_count()
    if batch_size < 1 or batch_size % count:
        raise UserError(
            f"{field}={batch_size}: {count} devices cannot share it evenly; "
            f"give a multiple of {count}"
        )
