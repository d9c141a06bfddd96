"""A network's arrays under the names of another project."""

from collections.abc import Sequence

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from rpn_jax.errors import UserError, list_some
from rpn_jax.runs.config import flatten
from rpn_jax.weights.forms import to_theirs
from rpn_jax.weights.layouts import LAYOUTS
from rpn_jax.weights.loading import reorder_anchors
from rpn_jax.weights.networks import TORCHVISION, source_config
from rpn_jax.weights.sources import meaning_of_head

_POOLED_HW = (7, 7)
_BOX = {
    "box.head": ("fc",),
    "box.channels": (1024,),
    "box.class_agnostic": (False,),
    "box.pooling.kind": ("align",),
    "box.pooling.size": (7,),
    "box.pooling.sampling_ratio": (2,),
    "box.pooling.aligned": (False,),
    "box.box_weights": ([10.0, 10.0, 5.0, 5.0],),
}
# What that network is. None is what a field that concerns few backbones is by default.
_TORCHVISION_MODEL = {
    "model.backbone": ("resnet50",),
    "model.neck": ("fpn",),
    "model.fpn_channels": (256,),
    "model.fpn_norm": (None,),
    "model.norm": (None, "sync_batch_norm", "frozen_batch_norm"),
    "model.stem": (None, "imagenet"),
    "model.stride_in_1x1": (None, False),
    "model.input_convention": ("torchvision",),
    "rpn.channels": (256,),
    "rpn.convolutions": (1,),
    "rpn.objectness": ("sigmoid",),
}


def check_torchvision(config: ConfigDict) -> None:
    """Raises a `UserError` unless torchvision's fasterrcnn_resnet50_fpn computes the same.

    That is up to the logits and deltas, and the anchors that they are of. How many proposals are
    kept, and of what size images are, is for whoever builds the model there.
    """
    fields = flatten(config)
    wanted = _TORCHVISION_MODEL | (_BOX if "box" in config else {})
    differing = [
        f"config.{field} is {fields[field]!r} instead of {known[-1]!r}"
        for field, known in wanted.items()
        if fields[field] not in known
    ]
    theirs = source_config(TORCHVISION)
    meaning = meaning_of_head(theirs)
    differing += [
        f"config.{field} is {flatten(config)[field]} instead of {flatten(theirs)[field]}"
        for field, value in meaning_of_head(config).items()
        if value != meaning[field]
    ]
    if differing:
        raise UserError(
            "--format=torchvision: fasterrcnn_resnet50_fpn is another network: "
            f"{list_some(differing, 3)}; use --format=rpn_jax"
        )


def torchvision_arrays(variables, aspect_ratios: Sequence[float]) -> dict[str, np.ndarray]:
    """Returns the arrays of a network, as the state dict of fasterrcnn_resnet50_fpn has them.

    `variables` are trees of NumPy arrays, of a network that `check_torchvision` lets pass. The
    anchors at a position, and the head's channels with them, change from the order of
    `aspect_ratios` to torchvision's. Of an RPN there are no `roi_heads`. Each norm has its counter
    of batches, 0, which torchvision's learning norms ask for, and its frozen ones pass over.
    """
    (layout,) = (layout for layout in LAYOUTS if layout.name == TORCHVISION)
    ratios = source_config(TORCHVISION).rpn.anchors.aspect_ratios
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
