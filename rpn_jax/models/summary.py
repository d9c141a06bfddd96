"""What each layer of a network puts out, sees of the image, and costs. Nothing is compiled."""

import collections
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from rpn_jax.models.rcnn import RCNN, frozen_paths_of, trainable_mask
from rpn_jax.models.receptive_field import Rows, rows_seen

_CANVAS = 2048  # pixels on which receptive fields are measured, where that is enough
_PARTS = ("backbone", "neck", "rpn")
_OF_REGIONS = ("box", "mask")


class Layer(NamedTuple):
    """One map that a stage of the backbone or a layer of the neck or of a head puts out.

    A layer that serves several levels has an entry for each; its parameters stand at the first.
    The receptive field is the side of the square of input pixels that a cell depends on, away from
    the border and but for the statistics that normalisations take of a whole map. `flops` is twice
    the multiply-adds of the convolutions, by their definition, for one image; biases, norms,
    activations and pools are not counted.

    A layer of the box or the mask head puts out a map, or a vector, of each region: `shape` is that
    of one, and `flops` are those of all. It has neither stride nor receptive field: both are 0.
    """

    name: str  # such as "backbone/c1"
    shape: tuple[int, int, int]  # rows, columns, channels
    stride: int  # input pixels from one cell to the next
    receptive_field: int
    parameters: int
    weights: int  # those of its parameters that are kernels
    flops: int
    frozen: bool


def summarize(
    network: RCNN,
    height: int,
    width: int,
    frozen_stages: int = 0,
    regions: int = 1,
    masks: int = 1,
    frozen_neck: bool = False,
) -> tuple[Layer, ...]:
    """Returns the layers, by part and name, for a canvas of `height` x `width` pixels.

    Args:
        network: network to describe.
        height: rows of the canvas.
        width: columns of the canvas.
        frozen_stages: so many of the backbone's first stages are not trained.
        regions: number of regions that a box head classifies in an image.
        masks: number of regions that a mask head gives masks.
        frozen_neck: whether the neck is not trained either.

    Raises:
        NotImplementedError: see `receptive_field.rows_seen`.
    """

    def variables(images):
        return network.init(jax.random.key(0), images, capture_intermediates=True, mutable=True)

    shapes = jax.eval_shape(variables, _images(height, width))
    maps = _by_module(shapes["intermediates"])
    params = traverse_util.flatten_dict(shapes["params"])
    learns = traverse_util.flatten_dict(
        trainable_mask(shapes["params"], frozen_paths_of(frozen_stages, frozen_neck))
    )
    costs = _costs(params, learns, maps)
    seen = _rows_of_layers(variables, _CANVAS)
    of_image = [
        costs.layer(layer, output.shape[1:], level)._replace(
            stride=round(rows.step), receptive_field=rows.extent
        )
        for layer in sorted(seen, key=lambda layer: (_PARTS.index(layer[0]), layer))
        for level, (output, rows) in enumerate(zip(maps[layer], seen[layer], strict=True))
    ]
    of_regions = [
        costs.layer(layer, (1, 1, *output.shape[1:])[-3:], level, times)
        for layer in sorted(path for path in maps if len(path) == 2 and path[0] in _OF_REGIONS)
        # A stage of the box head that a mask head shares runs for both.
        for level, (output, times) in enumerate(
            zip(maps[layer], (regions, masks) if layer[0] == "box" else (masks,), strict=False)
        )
    ]
    return (*of_image, *of_regions)


class _Costs(NamedTuple):
    """Numbers of each layer, and the FLOPs of each of its levels."""

    parameters: collections.Counter
    learning: collections.Counter
    weights: collections.Counter
    flops: collections.Counter

    def layer(self, layer: tuple[str, ...], shape, level: int, times: int = 1) -> Layer:
        """Returns the entry of a layer's level, which an image runs so many times."""
        return Layer(
            name="/".join(layer),
            shape=shape,
            stride=0,
            receptive_field=0,
            parameters=0 if level else self.parameters[layer],
            weights=0 if level else self.weights[layer],
            flops=times * self.flops[layer, level],
            frozen=self.learning[layer] < self.parameters[layer],
        )


def _costs(params, learns, maps) -> _Costs:
    """Counts; `params` and `learns` are by path, `maps` what each module puts out."""
    costs = _Costs(*(collections.Counter() for _ in range(4)))
    for path, leaf in params.items():
        layer, module = path[:2], path[:-1]
        costs.parameters[layer] += leaf.size
        costs.learning[layer] += leaf.size if learns[path] else 0
        if path[-1] == "kernel":
            costs.weights[layer] += leaf.size
            # A transposed convolution makes each cell with one of its 2 x 2 matrices.
            of_number = math.prod(leaf.shape[:-1]) // (4 if layer[1] == "upsample" else 1)
            for i, output in enumerate(maps[module]):
                # The output of the layer that this call of the module was for.
                level = i * len(maps[layer]) // len(maps[module])
                costs.flops[layer, level] += 2 * output.size * of_number
    return costs


def _images(height: int, width: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)


def _by_module(intermediates) -> dict[tuple[str, ...], list]:
    """Returns all that each module put out, in the order of its calls."""
    flat = traverse_util.flatten_dict(intermediates)
    return {
        path[:-1]: jax.tree.leaves(calls, is_leaf=lambda leaf: isinstance(leaf, Rows))
        for path, calls in flat.items()
    }


def _rows_of_layers(variables, canvas: int) -> dict[tuple[str, str], list[Rows]]:
    """Returns the rows that the layers see of an image large enough for the widest of them."""
    by_module = _by_module(rows_seen(variables, _images(canvas, canvas))["intermediates"])
    layers = {
        path: outputs
        for path, outputs in by_module.items()
        if len(path) == 2 and path[0] not in _OF_REGIONS
    }
    widest = max(rows.extent for outputs in layers.values() for rows in outputs)
    return layers if widest <= canvas // 2 else _rows_of_layers(variables, 2 * canvas)
