"""Networks and backbones with weights that were trained elsewhere: arrays brought to their leaves.

The families of files are those of `layouts.LAYOUTS`.
"""

import functools
import pathlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rpn_jax.errors import UserError, list_some
from rpn_jax.models.layers.norms import EPSILON
from rpn_jax.models.rcnn import RCNN
from rpn_jax.weights.forms import to_ours
from rpn_jax.weights.layouts import LAST_LAYERS, LAYOUTS, Layout, Leaf

_some = functools.partial(list_some, limit=3)


class Pretrained(NamedTuple):
    """Parts of a network, float32, by collection; and what else was in the file."""

    collections: dict[str, Any]  # "params", and "batch_stats" where the parts have them
    title: str  # of the family of the file
    unused: list[str]
    missing: tuple[str, ...] = ()  # modules of the parts that were left out, such as "box/scores"

    def __str__(self) -> str:
        """Says what was read and what was not used, on one line."""
        parts = " and ".join(self.collections["params"])
        rest = f"; not used: {_some(self.unused)}" if self.unused else ""
        return f"{parts} from {self.title}{rest}"


def recognize(
    path: str | pathlib.Path, arrays: dict[str, np.ndarray]
) -> tuple[Layout, dict[str, np.ndarray]]:
    """Returns the layout of a file, and its arrays under the names that it gives them today.

    A network inside torch's DataParallel or DistributedDataParallel has `module.` before all names.

    Raises:
        UserError: it is of no family known here.
    """
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    for layout in LAYOUTS:
        named = {layout.present_name(name): array for name, array in arrays.items()}
        if named.keys() >= set(layout.signature.split()):
            return layout, named
    raise UserError(
        f"{path}: holds {_some(arrays)}, which are not the names of a network known here; "
        f"give a file of {', '.join(layout.title for layout in LAYOUTS)}"
    )


def load_parts(
    path: str | pathlib.Path,
    layout: Layout,
    arrays: dict[str, np.ndarray],
    network: RCNN,
    variables: Any,
    convention_name: str,
    parts: Sequence[str] = ("backbone",),
    anchor_order: Sequence[int] | None = None,
    left_out: Collection[Leaf] = (),
    class_order: Sequence[int] | None = None,
) -> Pretrained:
    """Returns parts of a network, from the arrays of a file.

    A backbone that ends early takes the stages that it has. Where the file's network has a bias in
    front of a norm, and this one has none, the bias goes into the norm's mean; where its norms have
    another epsilon, the difference goes into the variance. Nothing else is changed.

    Args:
        path: of the file, for what there is to say about it.
        layout: of the file.
        arrays: by the names that the layout gives them.
        network: whose parts they are for.
        variables: of the network, or their shapes.
        convention_name: of the pixels that the model is configured for.
        parts: which ones to load, of "backbone", "neck", "rpn", "box" and "mask" those that the
            network has.
        anchor_order: for each anchor at a position, the index that it has in the file's head; None
            where they are the same.
        left_out: leaves of the parts that are not loaded.
        class_order: for each class, the place that it has in the file's last layers; None where
            they are the same.

    Raises:
        UserError: the weights were trained on other pixels, are of another network, or have other
            shapes or types, a value that is not finite, or part of a layer that the network has
            not. Nothing is loaded then.
    """
    _check_model(path, layout, network, convention_name)
    shapes = {
        leaf: place for leaf, place in leaves_of(variables, parts).items() if leaf not in left_out
    }
    names = _names(path, layout, shapes)
    biases = _biases_for_means(layout, arrays, shapes)
    pooled_hw = network.box.pooled_hw if network.box else (1, 1)
    in_our_order = {
        name: to_ours(layout, leaf, arrays[name], pooled_hw)
        for leaf, name in names.items()
        if name in arrays
    } | {name: arrays[name] for name in biases.values()}
    unused = [
        name
        for name in arrays
        if name not in in_our_order and not name.endswith("num_batches_tracked")
    ]
    expected = {names[leaf]: shape for leaf, (_, shape) in shapes.items()}
    expected |= {bias: shapes[leaf][1] for leaf, bias in biases.items()}
    heads = {_head(name) for leaf, name in names.items() if leaf[0] in ("rpn", "box", "mask")}
    others = {layout.array_name(leaf) for leaf in left_out}
    left_over = [name for name in unused if _head(name) in heads - {""} and name not in others]
    if problems := _problems(in_our_order, expected, unused, left_over):
        raise UserError(
            f"{path}: {layout.title} was read, but it does not fit config.model: {problems}; "
            "give the file of this network, or correct the network: the fields of config.model, or "
            "--model of import-weights"
        )

    bad = [name for name, x in in_our_order.items() if not np.isfinite(x.astype(np.float32)).all()]
    if bad:
        raise UserError(
            f"{path}: has a value that is not finite: {_some(bad)}; give the weights of an earlier "
            "step, as the training went wrong"
        )

    def value(leaf: Leaf) -> jnp.ndarray:
        bias = in_our_order[biases[leaf]] if leaf in biases else None
        array = in_our_order[names[leaf]]
        if leaf[:2] in LAST_LAYERS and class_order is not None:
            array = reorder_classes(leaf[1], array, class_order)
        return _value(leaf, array, layout.epsilon, bias, anchor_order)

    collections = traverse_util.unflatten_dict(
        {(collection, *leaf): value(leaf) for leaf, (collection, _) in shapes.items()}
    )
    missing = dict.fromkeys("/".join(leaf[:2]) for leaf in left_out)
    return Pretrained(collections, layout.title, unused, tuple(missing))


def leaves_of(variables: Any, parts: Sequence[str]) -> dict[Leaf, tuple[str, tuple[int, ...]]]:
    """Returns collection and shape of each leaf of the parts."""
    return {
        (part, *leaf): (collection, tuple(array.shape))
        for collection, trees in variables.items()
        for part in parts
        for leaf, array in traverse_util.flatten_dict(trees.get(part, {})).items()
    }


def _names(path, layout: Layout, leaves: Iterable[Leaf]) -> dict[Leaf, str]:
    """Returns what the layout calls each leaf; raises a `UserError` if it has no name for one."""
    names = {leaf: layout.array_name(leaf) for leaf in leaves}
    if foreign := ["/".join(leaf[1:]) for leaf, name in names.items() if name is None]:
        raise UserError(
            f"config.model.backbone: the model has {_some(foreign)}, for which {path} "
            f"({layout.title}) holds nothing; choose the backbone, and the norm, that it belongs to"
        )
    return names


def _value(
    leaf: Leaf,
    array: np.ndarray,
    epsilon: float,
    bias: np.ndarray | None,
    anchor_order: Sequence[int] | None,
) -> jnp.ndarray:
    """Returns a file's array as the network has it; `bias` is that in front of a norm's mean."""
    array = array.astype(np.float64)
    if leaf[-1] == "var" and epsilon != EPSILON:
        # Not so little that the sum with our epsilon would round to 0.
        array = np.maximum(array + (epsilon - EPSILON), EPSILON * (1e-6 - 1))
    if bias is not None:
        array = array - bias
    if leaf[0] == "rpn" and anchor_order is not None:
        array = reorder_anchors(leaf[1], array, anchor_order)
    return jnp.asarray(array, jnp.float32)


def _biases_for_means(
    layout: Layout, arrays: dict[str, np.ndarray], leaves: dict[Leaf, Any]
) -> dict[Leaf, str]:
    """Returns, for each mean, the bias in the file that it takes up: that of its convolution."""
    biases = {}
    for leaf in leaves:
        bias = (*leaf[:-2], "conv", "bias")
        if leaf[-2:] == ("norm", "mean") and bias not in leaves:
            name = layout.array_name(bias)
            if name in arrays:
                biases[leaf] = name
    return biases


def reorder_anchors(layer: str, array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Returns a kernel or bias of the head with its last axis, of K anchors, in another order.

    `deltas` has four channels for each anchor, side by side; `objectness` has one for each, or all
    those of background before all those of object.
    """
    K = len(order)
    if layer == "deltas":
        return array.reshape(*array.shape[:-1], K, 4)[..., order, :].reshape(array.shape)
    if layer == "objectness":
        return array.reshape(*array.shape[:-1], -1, K)[..., order].reshape(array.shape)
    return array


def reorder_classes(layer: str, array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Returns a kernel or bias of a last layer with its last axis, of classes, in another order.

    Background is the first and stays so. `deltas` has four channels for each class, side by side,
    or four for all.
    """
    places = [0, *(1 + place for place in order)]
    outputs = 4 if layer == "deltas" else 1
    if array.shape[-1] != outputs * len(places):
        return array
    by_class = array.reshape(*array.shape[:-1], len(places), outputs)
    return by_class[..., places, :].reshape(array.shape)


def _check_model(path, layout: Layout, network: RCNN, convention: str) -> None:
    if convention != layout.convention:
        raise UserError(
            f"config.model.input_convention: is {convention!r}, but the weights of {path} "
            f"({layout.title}) were trained on {layout.convention!r} input; set it to "
            f"{layout.convention!r}"
        )
    ours = getattr(network.backbone, "stride_in_1x1", layout.stride_in_1x1)
    if ours != layout.stride_in_1x1:
        place = "first 1x1" if layout.stride_in_1x1 else "3x3"
        raise UserError(
            f"config.model.stride_in_1x1: is {ours}, but {path} ({layout.title}) was trained with "
            f"the stride in the {place} convolutions; set it to {layout.stride_in_1x1}"
        )


def _problems(
    arrays: dict[str, np.ndarray],
    expected: dict[str, tuple[int, ...]],
    unused: list[str],
    left_over: list[str],
) -> str:
    """Says in what the arrays of a file differ from what is expected, "" if in nothing."""
    # A layer of which a part is left over is another layer: group norm has no place for a mean.
    layers = {_layer(name) for name in arrays} - {""}
    kinds = {
        "missing": [name for name in expected if name not in arrays],
        "left over": [name for name in unused if _layer(name) in layers or name in left_over],
        "of another shape": [
            f"{name} {array.shape} instead of {expected[name]}"
            for name, array in arrays.items()
            if array.shape != expected[name]
        ],
        "not of a float type": [
            name for name, array in arrays.items() if not jnp.issubdtype(array.dtype, jnp.floating)
        ],
    }
    return ", ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _head(name: str) -> str:
    """Returns the head that an array's name tells, such as "roi_heads.mask_head", "" if it doesn't.

    A head has all the layers that it is read for; a backbone may end before its file's.
    """
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 3 else ""


def _layer(name: str) -> str:
    """Returns what stands before the last dot or slash of an array's name, "" without one."""
    return re.sub(r"[./]?[^./]*$", "", name)
