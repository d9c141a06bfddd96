"""From the outputs of the two heads to proposals."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from rpn_jax.ops.anchors import centred_in_image
from rpn_jax.ops.boxes import MAX_LOG_SCALE, clip_boxes, decode_boxes
from rpn_jax.ops.nms import sorted_nms
from rpn_jax.ops.selection import top_k
from rpn_jax.typing import Array, Proposals


def propose(
    logits_per_level: Sequence[Float[Array, " _"]],
    deltas_per_level: Sequence[Float[Array, "_ 4"]],
    anchors_per_level: Sequence[Float[Array, "_ 4"]],
    image_hw: Float[Array, "2"],
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float | int | None = 0.7,
    min_size: float | int = 0.0,
    box_weights: Sequence[float | int] = (1, 1, 1, 1),
    max_log_scale: float = MAX_LOG_SCALE,
    keep_padding: bool = False,
    box_gradient: bool = False,
) -> Proposals:
    """Returns the proposals of one image, clipped to it, by falling score.

    Section 3.3 of the paper. Each level hands over its `pre_nms_top_n` best anchors; their boxes
    are decoded, clipped, filtered and thinned by NMS within the level; the `post_nms_top_n` best of
    all levels together are returned, as in detectron2 and torchvision. Boxes without area and those
    from a logit or a delta that is not finite are never returned. Equal scores come in the order of
    the levels and, within one, of the anchors. No gradient flows through a proposal, but with
    `box_gradient` through its box.

    Args:
        logits_per_level: objectness of each anchor, finest level first.
        deltas_per_level: box deltas of each anchor.
        anchors_per_level: the anchors.
        image_hw: height and width of the image inside its padded canvas.
        pre_nms_top_n: how many anchors a level hands over, at most.
        post_nms_top_n: P, how many proposals to return, padded.
        nms_threshold: the highest IoU of two proposals of a level; None leaves out the NMS.
        min_size: the least width and height of a proposal, after clipping, in input pixels.
        box_weights: those the deltas were encoded with.
        max_log_scale: see `decode_boxes`.
        keep_padding: whether anchors with their centre in the canvas's padding propose too, as
            they do in systems that do not look.
        box_gradient: whether the boxes have a gradient by the deltas; which ones there are is taken
            as it is.

    >>> anchors = [[0, 0, 16, 16], [1, 0, 17, 16], [16, 0, 32, 16]]
    >>> deltas = [[0, 0, 0, 0]] * 3
    >>> found = propose(
    ...     [[2.0, 1.0, 0.0]], [deltas], [anchors], (16, 32), pre_nms_top_n=3, post_nms_top_n=3
    ... )
    >>> found.boxes[found.valid].tolist()  # the second overlaps the first by 15/17
    [[0.0, 0.0, 16.0, 16.0], [16.0, 0.0, 32.0, 16.0]]
    """
    # As JAX arrays: a NumPy array (of anchors, say) cannot be indexed by a traced value.
    fixed = jax.lax.stop_gradient
    levels = [
        (fixed(jnp.asarray(logits)), jnp.asarray(deltas), fixed(jnp.asarray(anchors)))
        for logits, deltas, anchors in zip(
            logits_per_level, deltas_per_level, anchors_per_level, strict=True
        )
    ]
    if not box_gradient:
        levels = fixed(levels)
    candidates = [
        _candidates(
            logits,
            deltas,
            anchors,
            image_hw,
            pre_nms_top_n,
            min_size,
            box_weights,
            max_log_scale,
            keep_padding,
        )
        for logits, deltas, anchors in levels
    ]
    # Boxes, logits, flags and anchors of all levels, (levels, N, …), each level by falling logit.
    most = max(len(logits) for _, logits, _, _ in candidates)
    boxes, logits, valid, anchor = (
        jnp.stack([_pad(part, most) for part in parts]) for parts in zip(*candidates, strict=True)
    )
    level = jnp.broadcast_to(jnp.arange(len(candidates))[:, None], valid.shape)
    counts = [len(logits) for logits, _, _ in levels]
    anchor += jnp.array([0, *itertools.accumulate(counts[:-1])])[:, None]
    # Within its level each box is judged, and only then they compete: no level waits for another.
    if nms_threshold is not None:
        thinned: Callable = jax.vmap(
            lambda boxes, valid: sorted_nms(boxes, valid, nms_threshold, min(post_nms_top_n, most))
        )
        index, valid = thinned(jax.lax.stop_gradient(boxes), valid)
        taken: Callable = jax.vmap(lambda values, index: values[index])
        boxes, logits, level, anchor = (
            taken(values, index) for values in (boxes, logits, level, anchor)
        )
    boxes, logits, valid, level, anchor = (
        values.reshape(-1, *values.shape[2:]) for values in (boxes, logits, valid, level, anchor)
    )
    # Logits, not probabilities, are ranked: the sigmoid rounds many high logits to the same 1.
    index, kept = _best(logits, post_nms_top_n, valid)
    return Proposals(
        boxes=jnp.where(kept[:, None], boxes[index], 0),
        scores=jnp.where(kept, jax.nn.sigmoid(logits[index]), 0),
        valid=kept,
        level=jnp.where(kept, level[index], 0),
        anchor=jnp.where(kept, anchor[index], 0),
    )


def _candidates(
    logits: Float[Array, " A"],
    deltas: Float[Array, "A 4"],
    anchors: Float[Array, "A 4"],
    image_hw: Float[Array, "2"],
    top_n: int,
    min_size: float | int,
    box_weights: Sequence[float | int],
    max_log_scale: float,
    keep_padding: bool,
) -> tuple[Float[Array, "N 4"], Float[Array, " N"], Bool[Array, " N"], Int[Array, " N"]]:
    """Returns boxes and logits of a level's best anchors, which may propose, and their indices."""
    height, width = image_hw[0], image_hw[1]
    eligible = jnp.isfinite(logits)
    if not keep_padding:
        eligible &= centred_in_image(anchors, height, width)
    index, valid = _best(logits, min(top_n, logits.shape[0]), eligible)
    deltas = deltas[index]
    boxes = decode_boxes(anchors[index], deltas, box_weights, max_log_scale)
    boxes = clip_boxes(boxes, height, width)
    sides = boxes[:, 2:] - boxes[:, :2]
    # The decoder's cut-off and the clipping would make a box of an infinite delta look sound.
    valid &= jnp.all(jnp.isfinite(deltas), axis=1)
    valid &= jnp.all((sides >= min_size) & (sides > 0), axis=1)
    return boxes, logits[index], valid, index


def _best(
    scores: Float[Array, " N"], top_n: int, valid: Bool[Array, " N"]
) -> tuple[Int[Array, " P"], Bool[Array, " P"]]:
    """Returns the indices of the `top_n` best valid scores, padded, and which are not padding."""
    best, index = top_k(jnp.where(valid, scores, -jnp.inf), min(top_n, len(scores)))
    return _pad(index, top_n), _pad(best > -jnp.inf, top_n)


def _pad(values: Array, count: int) -> Array:
    """Appends zeros, which are False among flags, up to `count` rows."""
    return jnp.pad(values, ((0, count - len(values)), *[(0, 0)] * (values.ndim - 1)))
