"""A network's arrays under the names of another project."""

from collections.abc import Sequence

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from rpn_jax.errors import UserError, list_some
from rpn_jax.runs.config import flatten
from rpn_jax.weights.forms import to_theirs
from rpn_jax.weights.layouts import Layout, layout_called
from rpn_jax.weights.loading import reorder_anchors
from rpn_jax.weights.networks import TORCHVISION, TORCHVISION_V2, source_config
from rpn_jax.weights.sources import meaning_of_head

_POOLED_HW = (7, 7)
# What those networks are. None is what a field that concerns few backbones is by default.
_NETWORK = {
    "model.backbone": ("resnet50",),
    "model.neck": ("fpn",),
    "model.fpn_channels": (256,),
    "model.norm": (None, "sync_batch_norm", "frozen_batch_norm"),
    "model.stem": (None, "imagenet"),
    "model.stride_in_1x1": (None, False),
    "model.input_convention": ("torchvision",),
    "rpn.channels": (256,),
    "rpn.objectness": ("sigmoid",),
}
_BOX = {
    "box.channels": (1024,),
    "box.class_agnostic": (False,),
    "box.pooling.kind": ("align",),
    "box.pooling.size": (7,),
    "box.pooling.sampling_ratio": (2,),
    "box.pooling.aligned": (False,),
    "box.pooling.canonical_size": (224.0,),
    "box.pooling.level_eps": (1e-6,),
    "box.box_weights": ([10.0, 10.0, 5.0, 5.0],),
}
_MASK = {
    "mask.channels": (256,),
    "mask.convolutions": (4,),
    "mask.pooling.size": (14,),
    "mask.pooling.sampling_ratio": (2,),
    "mask.pooling.aligned": (False,),
    "mask.pooling.canonical_size": (224.0,),
    "mask.pooling.level_eps": (1e-6,),
}
_STAGES = {"model": _NETWORK, "box": _BOX, "mask": _MASK}
# In what the two versions differ.
_V1 = {
    "model": {"model.fpn_norm": (None,), "rpn.convolutions": (1,)},
    "box": {"box.head": ("fc",)},
    "mask": {"mask.norm": (None,)},
}
_V2 = {
    "model": {"model.fpn_norm": ("frozen_batch_norm",), "rpn.convolutions": (2,)},
    "box": {"box.head": ("conv",), "box.norm": ("frozen_batch_norm",)},
    "mask": {"mask.norm": ("frozen_batch_norm",)},
}


def torchvision_layout(config: ConfigDict) -> Layout:
    """Returns the layout of the network of torchvision that computes what the config's does.

    That is up to the logits and deltas, and the anchors that they are of. How many proposals are
    kept, and of what size images are, is for whoever builds the model there.

    Raises:
        UserError: neither fasterrcnn_resnet50_fpn nor fasterrcnn_resnet50_fpn_v2 does, nor, where
            there is a third stage, maskrcnn_resnet50_fpn or its v2. Held against a v2 is what has a
            norm behind its FPN.
    """
    name = _torchvision_name(config)
    fields = flatten(config)
    version = _V2 if name == TORCHVISION_V2 else _V1
    wanted: dict[str, tuple] = {}
    for stage in _STAGES:
        wanted |= _STAGES[stage] | version[stage] if stage in config else {}
    differing = [
        f"config.{field} is {fields[field]!r} instead of {known[-1]!r}"
        for field, known in wanted.items()
        if fields[field] not in known
    ]
    theirs = source_config(name)
    meaning = meaning_of_head(theirs)
    differing += [
        f"config.{field} is {fields[field]} instead of {flatten(theirs)[field]}"
        for field, value in meaning_of_head(config).items()
        if value != meaning[field]
    ]
    if differing:
        raise UserError(
            f"--format=torchvision: {torchvision_model(config)} is another network: "
            f"{list_some(differing, 3)}; use --format=rpn_jax"
        )
    return layout_called(name)


def torchvision_model(config: ConfigDict) -> str:
    """Returns what torchvision calls the network of a config that it can hold."""
    model = layout_called(_torchvision_name(config)).model
    return model.replace("faster", "mask") if "mask" in config else model


def _torchvision_name(config: ConfigDict) -> str:
    return TORCHVISION_V2 if config.model.fpn_norm else TORCHVISION


def torchvision_arrays(
    variables, layout: Layout, aspect_ratios: Sequence[float]
) -> dict[str, np.ndarray]:
    """Returns the arrays of a network, as the state dict of torchvision's has them.

    `variables` are trees of NumPy arrays, of a network that has this `torchvision_layout`. The
    anchors at a position, and the head's channels with them, change from the order of
    `aspect_ratios` to torchvision's. Of an RPN there are no `roi_heads`. Each norm has its counter
    of batches, 0, which torchvision's learning norms ask for, and its frozen ones pass over.
    """
    ratios = source_config(layout.name).rpn.anchors.aspect_ratios
    order = [list(aspect_ratios).index(ratio) for ratio in ratios]
    arrays = {}
    for tree in variables.values():
        for leaf, array in traverse_util.flatten_dict(tree).items():
            if leaf[0] == "rpn":
                array = reorder_anchors(leaf[1], array, order)
            array = to_theirs(layout, leaf, array, _POOLED_HW)
            name = layout.array_name(leaf)
            arrays[name] = np.asarray(array, np.float32, order="C")
            if name.endswith("running_mean"):
                counter = name.replace("running_mean", "num_batches_tracked")
                arrays[counter] = np.array(0, np.int64)
    return arrays
