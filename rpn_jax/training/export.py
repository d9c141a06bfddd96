"""A trained network as a file for others: compiled proposals, a model file, a torchvision dict."""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jax import export
from ml_collections import ConfigDict

from rpn_jax.errors import UserError, list_some
from rpn_jax.models import RegionProposalNetwork
from rpn_jax.models.layouts import LAYOUTS
from rpn_jax.models.pretrained import reorder_anchors
from rpn_jax.training.config import flatten
from rpn_jax.training.model_file import SUFFIX, write_model
from rpn_jax.training.sources import meaning_of_head, source_config
from rpn_jax.training.step import make_propose_step
from rpn_jax.training.trained import load_trained
from rpn_jax.training.workdir import write_bytes

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
TORCHVISION = "torchvision/fasterrcnn_resnet50_fpn"
# What that network is. None is what a field that concerns few backbones is by default.
_TORCHVISION_MODEL = {
    "backbone": ("resnet50",),
    "neck": ("fpn",),
    "fpn_channels": (256,),
    "norm": (None, "sync_batch_norm", "frozen_batch_norm"),
    "stem": (None, "imagenet"),
    "stride_in_1x1": (None, False),
    "head_channels": (256,),
    "objectness": ("sigmoid",),
    "input_convention": ("torchvision",),
}


def export_weights(
    config: ConfigDict,
    place: pathlib.Path,
    out: pathlib.Path,
    *,
    step: int | None = None,
    file_format: str = "rpn_jax",
) -> str:
    """Writes a trained network's arrays and returns a line about the file.

    With `file_format` "rpn_jax" it is a model file, with "torchvision" see `torchvision_arrays`.
    For `place` and `step` see `load_trained`.

    Raises:
        UserError: the network cannot be read, is not one that the format can hold, or the file
            cannot be written.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"--out={out}: a file of weights ends in {SUFFIX}; give it such a name")
    if file_format == "torchvision":
        check_torchvision(config)
    _, variables, step = load_trained(config, place, step)
    variables = jax.device_get(variables)
    if file_format == "torchvision":
        arrays = torchvision_arrays(variables, config.anchors.aspect_ratios)
        write_bytes(out, safetensors.numpy.save(arrays, {"format": "pt", "source": str(place)}))
        kind = "for torchvision's fasterrcnn_resnet50_fpn"
    else:
        write_model(out, config, variables, source=str(place), step=step)
        kind = f"with the config of its {config.model.backbone}"
    count = sum(array.size for array in jax.tree.leaves(variables))
    return f"{out}: {count / 1e6:.1f} million values of {place}, {kind}"


def check_torchvision(config: ConfigDict) -> None:
    """Raises a `UserError` unless torchvision's fasterrcnn_resnet50_fpn computes the same.

    That is up to the logits and deltas, and the anchors that they are of. How many proposals are
    kept, and of what size images are, is for whoever builds the model there.
    """
    differing = [
        f"config.model.{field} is {config.model[field]!r} instead of {known[-1]!r}"
        for field, known in _TORCHVISION_MODEL.items()
        if config.model[field] not in known
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
    `aspect_ratios` to torchvision's. There are no `roi_heads` and no counters of batches.
    """
    (layout,) = (layout for layout in LAYOUTS if layout.name == TORCHVISION)
    to_their_axes = np.argsort(layout.dialect.kernel_axes)
    ratios = source_config(TORCHVISION).anchors.aspect_ratios
    order = [list(aspect_ratios).index(ratio) for ratio in ratios]
    arrays = {}
    for tree in variables.values():
        for leaf, array in traverse_util.flatten_dict(tree).items():
            if leaf[0] == "head":
                array = reorder_anchors(leaf[1], array, order)
            if array.ndim == 4:
                array = array.transpose(to_their_axes)
            arrays[layout.array_name(leaf)] = np.asarray(array, np.float32, order="C")
    return arrays


def export_proposals(
    config: ConfigDict,
    place: pathlib.Path,
    out: pathlib.Path,
    *,
    image_hw: tuple[int, int],
    batch_size: int = 1,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    settings: str = "test",
    step: int | None = None,
) -> int:
    """Writes the function from images to proposals, weights inside, and returns the file's bytes.

    It is `propose_function` lowered for all of the platforms, which need not be there, as
    `jax.export` serialises it: `jax.export.deserialize` reads it without this package.

    Args:
        config: of the network.
        place: see `load_trained`, as for `step`.
        out: the file to write.
        image_hw: rows and columns of the canvas.
        batch_size: images at once.
        platforms: names of `PLATFORMS`.
        settings: whose counts of `config.proposals`, "train" or "test".
        step: of the checkpoint.

    Raises:
        UserError: an unknown platform, a canvas on which some level has no cell, or a file that
            cannot be read or written.
    """
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        raise UserError(
            f"--platforms: {unknown[0]!r} is unknown; give one or more of {','.join(PLATFORMS)}"
        )
    network, variables, _ = load_trained(config, place, step)
    if any(0 in grid_hw for grid_hw in network.grid_hw(*image_hw)):
        raise UserError(
            f"--image_size={'x'.join(map(str, image_hw))}: leaves no cell of the network's last "
            "feature map; give a larger one"
        )
    function = propose_function(config, network, jax.device_get(variables), settings)
    exported = export.export(jax.jit(function), platforms=tuple(platforms))(
        jax.ShapeDtypeStruct((batch_size, *image_hw, 3), jnp.uint8),
        jax.ShapeDtypeStruct((batch_size, 2), jnp.float32),
    )
    content = bytes(exported.serialize())
    write_bytes(out, content)
    return len(content)


def propose_function(
    config: ConfigDict, network: RegionProposalNetwork, variables, settings: str = "test"
):
    """Returns `(images, image_hw) -> {"boxes": …, "scores": …, "valid": …}`.

    `images` (B, H, W, 3) are uint8 RGB, each at the top left of its canvas; `image_hw` (B, 2)
    float32 is the height and width of each there. Boxes (B, P, 4) are in pixels of the canvas, by
    falling score (B, P); a slot that is not `valid` (B, P) holds zeros.
    """
    step = make_propose_step(config, network, settings)

    def propose(images, image_hw):
        proposals = step(variables, (images, image_hw))
        return {
            "boxes": proposals.boxes,
            "scores": proposals.scores,
            "valid": proposals.valid,
        }

    return propose
