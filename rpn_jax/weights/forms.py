"""The form of an array: as a network here has it, and as the file of another project does.

Kernels here are (rows, columns, in, out) and (in, out). What enters a fully connected layer from a
map is flattened with the channels last: (rows, columns, channels).
"""

import numpy as np

from rpn_jax.weights.layouts import LAST_LAYERS, OIHW, Layout, Leaf

_FLATTENED = ("box", "fc6", "kernel")  # the kernel behind the pooled features of a region
_TRANSPOSED = ("mask", "upsample", "kernel")  # torch has its channels the other way round


def to_ours(
    layout: Layout, leaf: Leaf, array: np.ndarray, pooled_hw: tuple[int, int]
) -> np.ndarray:
    """Returns the array of a file as the network has it.

    An array of an impossible shape is returned in some other: who compares shapes finds it.

    Args:
        layout: of the file.
        leaf: of the array.
        array: of the file.
        pooled_hw: rows and columns of a region's features, where there is a second stage.
    """
    if array.ndim == 4:
        if leaf == _TRANSPOSED and _channels_first(layout):
            array = array.swapaxes(0, 1)
        array = array.transpose(layout.dialect.kernel_axes)
    elif array.ndim == 2 and _channels_first(layout):
        array = array.T
        cells = pooled_hw[0] * pooled_hw[1]
        if leaf == _FLATTENED and array.shape[0] % cells == 0:
            maps = array.reshape(-1, *pooled_hw, array.shape[1])
            array = maps.transpose(1, 2, 0, 3).reshape(array.shape)
    if layout.background_last and array.ndim and leaf[:2] in LAST_LAYERS:
        return _background_first(leaf, array)
    return array


def _background_first(leaf: Leaf, array: np.ndarray) -> np.ndarray:
    """Returns the array with the outputs of background, of boxes and masks zeros, in front."""
    if leaf[1] == "scores":
        return np.roll(array, 1, axis=-1)
    outputs = 4 if leaf[1] == "deltas" else 1
    if outputs == 4 == array.shape[-1]:  # one box for all classes
        return array
    return np.concatenate([np.zeros_like(array[..., :outputs]), array], axis=-1)


def to_theirs(
    layout: Layout, leaf: Leaf, array: np.ndarray, pooled_hw: tuple[int, int]
) -> np.ndarray:
    """Returns the array of a network as the file has it; undoes `to_ours`, of background first."""
    if array.ndim == 4:
        array = array.transpose(np.argsort(layout.dialect.kernel_axes))
        if leaf == _TRANSPOSED and _channels_first(layout):
            array = array.swapaxes(0, 1)
    elif array.ndim == 2 and _channels_first(layout):
        if leaf == _FLATTENED:
            maps = array.reshape(*pooled_hw, -1, array.shape[1])
            array = maps.transpose(2, 0, 1, 3).reshape(array.shape)
        array = array.T
    return array


def _channels_first(layout: Layout) -> bool:
    return layout.dialect.kernel_axes == OIHW
