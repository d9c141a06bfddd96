"""Pictures of detections, and of annotations: boxes and masks in the colour of their class."""

import colorsys
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rpn_jax.data.masks import Masks
from rpn_jax.typing import Array
from rpn_jax.visualize.boxes import LONG_SIDE
from rpn_jax.visualize.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILLION,
    YELLOW,
    Canvas,
    Color,
    Stroke,
)

_PALETTE = (SKY_BLUE, ORANGE, GREEN, PURPLE, YELLOW, VERMILLION, BLUE)
_IGNORED = Stroke(GREY, 1.6, dash=2, halo=True)
_GOLDEN_RATIO = 0.618034  # successive multiples of it lie far apart on a circle
_MOST_IN_LEGEND = 12
_MOST_COVERED = 0.12  # of a picture with masks, by names


def draw_detections(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[Array, "D 4"],
    scores: Float[Array, " D"],
    labels: Int[Array, " D"],
    class_names: Sequence[str],
    *,
    masks: Masks | None = None,
    gt_boxes: Float[Array, "G 4"] | None = None,
    gt_labels: Int[Array, " G"] | None = None,
    gt_ignore: Bool[Array, " G"] | None = None,
    gt_masks: Masks | None = None,
    title: str | None = None,
    long_side: int = LONG_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws every detection; those of higher scores lie on top.

    With ground truth, each object is outlined with dashes in the colour of its class, and ignore
    regions in grey: along its mask, or its box where it has none. `labels` are places in
    `class_names`. Masks are of the image, at its size or another. Where there is one class alone,
    the legend names it and the boxes have their scores.
    """
    canvas = Canvas(image, long_side)
    order = np.argsort(-scores, kind="stable")
    if masks is not None:
        for i in reversed(order.tolist()):
            canvas.draw_mask(masks[i], _of_mask(int(labels[i])))
    width = 2.2 if masks is None else 1.2
    legend = []
    if gt_boxes is not None:
        ignore = np.zeros(len(gt_boxes), bool) if gt_ignore is None else np.asarray(gt_ignore)
        legend += _draw_ground_truth(canvas, gt_boxes, gt_labels, ignore, gt_masks)
    for i in reversed(order.tolist()):
        canvas.draw(boxes[i : i + 1], Stroke(class_color(int(labels[i])), width, halo=True))
    names = [f"{name} " for name in class_names] if len(class_names) > 1 else [""]
    canvas.labels(
        [
            (boxes[i], f"{names[labels[i]]}{scores[i]:.2f}", class_color(int(labels[i])))
            for i in order.tolist()
        ],
        most_covered=1 if masks is None else _MOST_COVERED,
    )
    legend += _legend_of_classes(labels, class_names, _of_box if masks is None else _of_mask)
    return canvas.finish(title, legend or [(Stroke(GREY, 1), "nothing found")])


def draw_annotations(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[Array, "G 4"],
    labels: Int[Array, " G"],
    ignore: Bool[Array, " G"],
    class_names: Sequence[str],
    *,
    masks: Sequence[Bool[np.ndarray, "H W"]] | None = None,
    long_side: int = LONG_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws annotated objects in the colours of their classes, and ignore regions in grey.

    `labels` are places in `class_names`. A mask without a pixel is left out. Where there is one
    class alone, the legend names it, and no name hides an object.
    """
    canvas = Canvas(image, long_side)
    objects = np.flatnonzero(~ignore).tolist()
    canvas.draw(boxes[ignore], _IGNORED)
    for i in objects:
        if masks is not None and masks[i].any():
            canvas.draw_mask(masks[i], _of_mask(int(labels[i])))
    for i in objects:
        canvas.draw(boxes[i : i + 1], Stroke(class_color(int(labels[i])), 1.6, halo=True))
    if len(class_names) > 1:
        canvas.labels(
            [(boxes[i], class_names[labels[i]], class_color(int(labels[i]))) for i in objects],
            most_covered=_MOST_COVERED,
        )
    legend = _legend_of_classes(labels[~ignore], class_names, _of_box)
    if ignore.any():
        legend.append((_IGNORED, f"difficult or crowd ({ignore.sum()})"))
    return canvas.finish(None, legend or [(Stroke(GREY, 1), "nothing annotated")])


def _legend_of_classes(
    labels: Int[Array, " n"], class_names: Sequence[str], style: Callable[[int], Stroke]
) -> list[tuple[Stroke, str]]:
    """Returns the commonest classes, each with its number of boxes."""
    found, counts = np.unique(labels, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:_MOST_IN_LEGEND]
    return [
        (style(label), f"{class_names[label]} ({count})")
        for label, count in zip(found[most].tolist(), counts[most].tolist(), strict=True)
    ]


def _of_box(label: int) -> Stroke:
    return Stroke(class_color(label), 2.2)


def _of_mask(label: int) -> Stroke:
    return Stroke(class_color(label), 1.2, halo=True, fill=0.38)


def _draw_ground_truth(
    canvas: Canvas, boxes: Array, labels: Array, ignore: np.ndarray, masks: Masks | None
) -> list[tuple[Stroke, str]]:
    """Draws the annotated objects and ignore regions, and returns their part of the legend."""
    # Ignore regions first, so that objects lie on them.
    for i in np.argsort(~ignore, kind="stable").tolist():
        stroke = _IGNORED if ignore[i] else Stroke(class_color(int(labels[i])), 1.6, 1, 5, True)
        if masks is not None and masks.counts[i]:
            canvas.draw_mask(masks[i], dataclasses.replace(stroke, width=1.2))
        else:
            canvas.draw(boxes[i : i + 1], stroke)
    legend = [(Stroke(GREY, 1.6, dash=5), f"dashed: annotated ({(~ignore).sum()})")]
    if ignore.any():
        legend.append((_IGNORED, f"difficult or crowd, not counted ({ignore.sum()})"))
    return legend


def class_color(label: int) -> Color:
    """Returns the colour of a class: Okabe and Ito's for the first seven, then further hues."""
    if label < len(_PALETTE):
        return _PALETTE[label]
    hue = label * _GOLDEN_RATIO % 1
    value = (0.95, 0.75)[label % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, value)
    return round(255 * red), round(255 * green), round(255 * blue)
