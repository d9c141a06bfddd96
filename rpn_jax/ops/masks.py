"""What a mask head is to say of a region, the mask of its object cut to the region, and the loss.

    G  ground-truth slots       S  rows and columns of an object's mask, which is cut to its box
    R  regions                  M  rows and columns of a region's

A mask of S x S cells stands for the whole bitmap of its object. Outside of its box it is 0.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int, UInt8

from rpn_jax.ops.boxes import as_boxes
from rpn_jax.typing import Array

# An object and a region that covers it by half or more are at most twice as long as each other, so
# that a bin has 8 cells at most where S is 112 and M is 28.
_MAX_SAMPLES = 8
_SMALLEST_SIDE = 1e-3  # pixels; a box without area is taken for one as large


def crop_masks(
    masks: UInt8[Array, "G S S"],
    gt_boxes: Float[Array, "G 4"],
    boxes: Float[Array, "R 4"],
    gt_index: Int[Array, " R"],
    *,
    size: int,
    soft: bool = False,
    aligned: bool = True,
) -> Float[Array, "R {size} {size}"]:
    """Returns each region's mask of its object: RoIAlign of the object's mask (arXiv 1703.06870).

    A bin is the mean of bilinear samples, as many along each axis as the bin has cells, 8 at most.
    The product of the two axes is taken by matrices, of which those of all regions take 2 R M S
    numbers. Nothing is differentiated.

    Args:
        masks: of the objects, each cut to its box, see `typing.GroundTruth`.
        gt_boxes: the boxes of the objects.
        boxes: the regions.
        gt_index: each region's object.
        size: M, rows and columns of the result.
        soft: whether the result is the part of a bin that the object covers, as in torchvision; or
            else 1 where that is at least half, and 0 elsewhere, as in detectron2.
        aligned: whether a pixel's centre lies at half a pixel. If not, it lies at a whole one, as
            torchvision's RoIAlign has it: all is moved by half a pixel towards the origin.

    >>> masks = jnp.full((1, 4, 4), 255, jnp.uint8)
    >>> regions = [[0, 0, 8, 8], [4, 0, 12, 8]]  # the object's box, and one half beside it
    >>> crop_masks(masks, [[0, 0, 8, 8]], regions, jnp.array([0, 0]), size=2)[1]
    Array([[1., 0.],
           [1., 0.]], dtype=float32)
    """
    gt_boxes, boxes = jnp.asarray(as_boxes(gt_boxes)), jnp.asarray(as_boxes(boxes))
    return _crop(jnp.asarray(masks), gt_boxes, boxes, jnp.asarray(gt_index), size, soft, aligned)


def mask_loss(
    logits: Float[Array, "R M M"], targets: Float[Array, "R M M"], labels: Int[Array, " R"]
) -> Float[Array, ""]:
    """Returns the cross-entropy of the mask of each positive's class, summed over the positives.

    That of a region is the mean over the cells of its mask; the other classes have no part in it
    (arXiv 1703.06870, section 3). A region without a class adds exactly 0 to the loss and to its
    gradient, even where its logits are infinite or NaN.

    Args:
        logits: of the masks, as those of the regions' classes.
        targets: what the mask of the region's class should have been, from 0 to 1.
        labels: classes of the regions, 0 where there is nothing to learn.

    >>> mask_loss(jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)), jnp.array([2, 0])).round(3)
    Array(0.693, dtype=float32)
    """
    is_positive = (jnp.asarray(labels) > 0)[:, None, None]
    logits = jnp.where(is_positive, logits, 0)
    losses = jax.nn.softplus(logits) - logits * targets
    return jnp.sum(jnp.where(is_positive, losses, 0)) / (logits.shape[1] * logits.shape[2])


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _crop(masks, gt_boxes, boxes, gt_index, size, soft, aligned):
    if not len(masks):
        return jnp.zeros((len(boxes), size, size))
    gt_boxes, boxes = lax.stop_gradient((gt_boxes[gt_index], boxes))
    cells = masks.shape[1]
    scale = cells / jnp.maximum(gt_boxes[:, 2:] - gt_boxes[:, :2], _SMALLEST_SIDE)
    shift = 0.0 if aligned else 0.5
    start = (boxes[:, :2] + shift - gt_boxes[:, :2]) * scale
    length = (boxes[:, 2:] - boxes[:, :2]) * scale
    columns, rows = (_parts(start[:, i], length[:, i], size, cells) for i in (0, 1))
    covered = masks[gt_index].astype(jnp.float32) / 255
    covered = jnp.einsum(
        "riy,ryx,rjx->rij", rows, covered, columns, precision=lax.Precision.HIGHEST
    )
    return covered if soft else (covered >= 0.5).astype(jnp.float32)


def _parts(start, length, bins, cells):
    """Returns the part (R, bins, cells) that each cell of a mask has in each bin, along one axis.

    Args:
        start: (R,) of a region, in cells of its object's mask.
        length: (R,) of it.
        bins: of a region.
        cells: of a mask; what a sample sees beyond them is 0.
    """
    bin_length = length / bins
    count = jnp.clip(jnp.ceil(bin_length), 1, _MAX_SAMPLES)
    sample = jnp.arange(_MAX_SAMPLES, dtype=jnp.float32)
    of_bin = jnp.arange(bins)[None, :, None] + ((sample[None] + 0.5) / count[:, None])[:, None]
    # The centre of the first cell is at half a cell.
    place = start[:, None, None] + of_bin * bin_length[:, None, None] - 0.5
    distance = jnp.abs(place[..., None] - jnp.arange(cells, dtype=jnp.float32)[None, None, None])
    counts = (sample[None] < count[:, None]) / count[:, None]
    return jnp.sum(jnp.maximum(1 - distance, 0) * counts[:, None, :, None], axis=2)
