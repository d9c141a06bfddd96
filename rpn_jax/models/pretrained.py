"""Backbones with weights that were trained elsewhere, under the names that others gave them."""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rpn_jax.errors import UserError, list_some
from rpn_jax.models import vgg
from rpn_jax.models.rpn import RegionProposalNetwork

_some = functools.partial(list_some, limit=3)

Leaf = tuple[str, ...]  # where a backbone keeps an array: ("c3", "conv3_1", "kernel")


class Layout(NamedTuple):
    """How one family of files names and orders the arrays of a backbone.

    Fields:
      title: of the family.
      signature: an array that every such file has, and none of another family.
      convention: what pixels it was trained on, a name of `inputs.CONVENTIONS`.
      kernel_axes: the file's axes in the order height, width, in, out.
      array_name: the array for a leaf, None where the family has no such leaf.
    """

    title: str
    signature: str
    convention: str
    kernel_axes: tuple[int, int, int, int]
    array_name: Callable[[Leaf], str | None]


def _vgg_layers() -> Iterator[tuple[str, int]]:
    """Yields the name of each convolution of VGG-16, and its number among torchvision's layers."""
    index = 0
    for stage, (count, _) in enumerate(vgg.STAGES.values(), start=1):
        for i in range(1, count + 1):
            yield f"conv{stage}_{i}", index
            index += 2  # a ReLU follows
        index += 1  # and a pool ends the stage


_VGG_INDEX = dict(_vgg_layers())
_IN_TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def _caffe_vgg(leaf: Leaf) -> str | None:
    _, layer, *_, array = leaf
    return f"{layer}_{'w' if array == 'kernel' else 'b'}" if layer in _VGG_INDEX else None


def _torchvision_vgg(leaf: Leaf) -> str | None:
    _, layer, *_, array = leaf
    return f"features.{_VGG_INDEX[layer]}.{_IN_TORCH[array]}" if layer in _VGG_INDEX else None


def _torchvision_resnet(leaf: Leaf) -> str | None:
    *module, kind, array = leaf
    if kind not in ("conv", "norm"):
        return None
    if module == ["c1", "conv1"]:
        prefix = "conv1" if kind == "conv" else "bn1"
    else:
        stage, block, layer = module
        prefix = f"layer{int(stage[1:]) - 1}.{int(block.removeprefix('block')) - 1}."
        if layer == "shortcut":
            prefix += "downsample.0" if kind == "conv" else "downsample.1"
        else:
            prefix += layer if kind == "conv" else layer.replace("conv", "bn")
    return f"{prefix}.{_IN_TORCH[array]}"


_HWIO, _OIHW = (0, 1, 2, 3), (2, 3, 1, 0)
LAYOUTS = (
    Layout("Caffe's VGG-16", "conv1_1_w", "caffe", _HWIO, _caffe_vgg),
    Layout("torchvision's VGG-16", "features.0.weight", "torchvision", _OIHW, _torchvision_vgg),
    Layout(
        "torchvision's ResNet", "layer1.0.conv1.weight", "torchvision", _OIHW, _torchvision_resnet
    ),
)


class Backbone(NamedTuple):
    """The arrays of a backbone, float32, by collection; and what else was in the file."""

    collections: dict[str, Any]  # "params", and "batch_stats" where the backbone has them
    title: str
    unused: list[str]

    def __str__(self) -> str:
        """Says what was read and what was not used, on one line."""
        rest = f"; not used: {_some(self.unused)}" if self.unused else ""
        return f"{self.title}{rest}"


def load_backbone(
    path: str | pathlib.Path,
    arrays: dict[str, np.ndarray],
    network: RegionProposalNetwork,
    variables: Any,
    convention_name: str,
) -> Backbone:
    """Returns the arrays of the network's backbone, from those in a file of another project.

    They are those of a classifier or of its convolutions alone, of one of the families in
    `LAYOUTS`: `conv1_1_w` (HWIO) and `conv1_1_b` to `conv5_3_b` as Caffe's VGG-16 has them;
    torchvision's VGG-16 without batch normalisation; torchvision's ResNets, whose names timm has
    too. A backbone that ends early takes the stages that it has.

    Args:
        path: of the file, for what there is to say about it.
        arrays: by the names that they have in the file.
        network: whose backbone they are for.
        variables: of the network, or their shapes.
        convention_name: of the pixels that the model is configured for.

    Raises:
        UserError: the weights were trained on other pixels, are of another network, or have other
            shapes or types, a value that is not finite, or part of a layer that the network has
            not. Nothing is loaded then.
    """
    layouts = [layout for layout in LAYOUTS if layout.signature in arrays]
    if not layouts:
        raise UserError(
            f"{path}: holds {_some(arrays)}, which are not the names of a backbone known here; "
            f"give a file of {' or '.join(layout.title for layout in LAYOUTS)}"
        )
    (layout,) = layouts
    _check_model(path, layout, network, convention_name)
    leaves = {
        (collection, *leaf): array
        for collection, tree in variables.items()
        for leaf, array in traverse_util.flatten_dict(tree["backbone"]).items()
    }
    names = {leaf: layout.array_name(leaf[1:]) for leaf in leaves}
    if foreign := ["/".join(leaf[1:]) for leaf, name in names.items() if name is None]:
        raise UserError(
            f"config.model.backbone: the model has {_some(foreign)}, for which {path} "
            f"({layout.title}) holds nothing; choose the backbone that it belongs to"
        )
    in_our_order = {
        name: arrays[name].transpose(layout.kernel_axes) if arrays[name].ndim == 4 else arrays[name]
        for name in names.values()
        if name in arrays
    }
    unused = [name for name in arrays if name not in in_our_order]
    expected = {names[leaf]: tuple(array.shape) for leaf, array in leaves.items()}
    if problems := _problems(in_our_order, expected, unused):
        raise UserError(
            f"{path}: {layout.title} was read, but it does not fit config.model: {problems}; "
            "give the file of this backbone, or correct the fields of config.model"
        )
    collections = traverse_util.unflatten_dict(
        {leaf: jnp.asarray(in_our_order[name], jnp.float32) for leaf, name in names.items()}
    )
    return Backbone(collections, layout.title, unused)


def _check_model(path, layout: Layout, network: RegionProposalNetwork, convention: str) -> None:
    if convention != layout.convention:
        raise UserError(
            f"config.model.input_convention: is {convention!r}, but the weights of {path} "
            f"({layout.title}) were trained on {layout.convention!r} input; set it to "
            f"{layout.convention!r}"
        )
    if getattr(network.backbone, "stride_in_1x1", False):
        raise UserError(
            f"config.model.stride_in_1x1: is True, but {path} ({layout.title}) was trained with "
            "the stride in the 3x3 convolutions; set it to None"
        )


def _problems(
    arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]], unused: list[str]
) -> str:
    """Says in what the arrays of a file differ from what is expected, "" if in nothing."""
    # A layer of which a part is left over is another layer: group norm has no place for a mean.
    layers = {name.rpartition(".")[0] for name in arrays} - {""}
    kinds = {
        "missing": [name for name in expected if name not in arrays],
        "left over": [
            name
            for name in unused
            if name.rpartition(".")[0] in layers and not name.endswith("num_batches_tracked")
        ],
        "of another shape": [
            f"{name} {array.shape} instead of {expected[name]}"
            for name, array in arrays.items()
            if array.shape != expected[name]
        ],
        "not of a float type": [
            name for name, array in arrays.items() if not jnp.issubdtype(array.dtype, jnp.floating)
        ],
    }
    if not any(kinds.values()):
        kinds["not finite"] = [
            name
            for name, array in arrays.items()
            if not np.isfinite(array.astype(np.float32)).all()
        ]
    return ", ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)
