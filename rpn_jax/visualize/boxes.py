"""Pictures of boxes on photographs: proposals, matched anchors, anchors; and sheets of pictures.

Images are RGB uint8 as a file holds them, not normalised; boxes are in pixels of the image that is
given, padding left out. Every picture carries a legend and tells its kinds of boxes apart by line
style as well as by colour (Okabe and Ito's), so that it survives grey print and colour blindness.
"""

import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rpn_jax.errors import UserError
from rpn_jax.evaluation.matching import pairwise_iou
from rpn_jax.files import write_bytes
from rpn_jax.ops.matching import Label
from rpn_jax.typing import Array
from rpn_jax.visualize.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILLION,
    WHITE,
    YELLOW,
    Canvas,
    Stroke,
)

_ENCODER_OPTIONS = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92],
}
LONG_SIDE = 1200  # pixels to which smaller images are enlarged

_OBJECT = Stroke(YELLOW, 2.2, dash=6, halo=True)
_MISSED = Stroke(VERMILLION, 2.8, dash=3, halo=True)
_IGNORED = Stroke(GREY, 1.6, dash=2, halo=True)
_FINDER = Stroke(SKY_BLUE, 2.2, halo=True)
_OTHER = Stroke(WHITE, 1.0, alpha=0.45)
_POSITIVE = Stroke(SKY_BLUE, 1.2, alpha=0.75, dot=True)
_NEGATIVE = Stroke(ORANGE, 0, dot=True)


def draw_proposals(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[Array, "P 4"],
    scores: Float[Array, " P"],
    *,
    gt_boxes: Float[Array, "G 4"] | None = None,
    gt_ignore: Bool[Array, " G"] | None = None,
    top_n: int = 30,
    found_iou: float | int = 0.5,
    title: str | None = None,
    long_side: int = LONG_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the `top_n` proposals of the highest scores.

    Without ground truth, colour shows the rank and the best five carry their scores; better
    proposals lie on top and are more opaque. With ground truth, the picture highlights for each
    object the drawn proposal with the highest IoU, if it reaches `found_iou`. Other proposals are
    faint, and objects without such a proposal are marked as missed. (`evaluation.recall` matches
    one to one; this does not.)
    """
    order = np.argsort(-scores, kind="stable")[:top_n]
    boxes, scores = boxes[order], scores[order]
    canvas = Canvas(image, long_side)
    if gt_boxes is None:
        return _draw_ranked(canvas, boxes, scores, title)
    objects, ignored = _split(gt_boxes, gt_ignore)
    iou = pairwise_iou(boxes, objects)
    best_iou = iou.max(axis=0, initial=0.0)
    found = best_iou >= found_iou
    # argmax needs a row; without proposals nothing is found and its result is not used.
    finder = iou.argmax(axis=0)[found] if len(boxes) else np.zeros(0, int)
    others = np.setdiff1d(np.arange(len(boxes)), finder)
    layers = [
        (boxes[others], _OTHER, f"other proposals of the top {top_n} ({len(others)})"),
        (ignored, _IGNORED, f"difficult or crowd, not counted ({len(ignored)})"),
        (objects[found], _OBJECT, f"object, found ({found.sum()})"),
        (boxes[np.unique(finder)], _FINDER, "best proposal for an object"),
        (objects[~found], _MISSED, f"object, missed at IoU {found_iou:g} ({(~found).sum()})"),
    ]
    legend = _draw_layers(canvas, layers)
    labels = [(objects[i], f"missed, IoU {best_iou[i]:.2f}", VERMILLION) for i in _where(~found)]
    labels += [
        (boxes[p], f"IoU {best_iou[i]:.2f}", SKY_BLUE)
        for p, i in zip(finder, _where(found), strict=True)
    ]
    canvas.labels(labels)
    return canvas.finish(title, legend)


def _draw_ranked(canvas: Canvas, boxes, scores, title: str | None) -> UInt8[np.ndarray, "h w 3"]:
    """Draws proposals, given best first, from the last to the first; better ones stand out."""
    quality = np.linspace(1, 0, len(boxes)) if len(boxes) > 1 else np.ones(len(boxes))
    # Plasma without its darkest part: rising lightness, so it reads in grey too.
    ramp = np.rint(95 + 160 * quality).astype(np.uint8)[:, None]
    colors = cv2.applyColorMap(ramp, cv2.COLORMAP_PLASMA)[:, 0, ::-1] if len(boxes) else []
    strokes = [
        Stroke(tuple(color.tolist()), 1 + 1.2 * q, 0.5 + 0.5 * q, halo=q > 0.8)
        for color, q in zip(colors, quality.tolist(), strict=True)
    ]
    for i in reversed(range(len(boxes))):
        canvas.draw(boxes[i : i + 1], strokes[i])
    canvas.labels([(boxes[i], f"{scores[i]:.2f}", strokes[i].color) for i in range(len(boxes))[:5]])
    shown = sorted({0, len(boxes) // 2, len(boxes) - 1}) if len(boxes) else []
    return canvas.finish(
        title, [(strokes[i], f"no. {i + 1}, score {scores[i]:.2f}") for i in shown]
    )


def draw_found(
    image: UInt8[np.ndarray, "H W 3"],
    objects: Float[Array, "G 4"],
    found_boxes: Float[Array, "G 4"],
    ignored: Float[Array, "n 4"],
    *,
    found_iou: float | int = 0.5,
    long_side: int = LONG_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws each object with the proposal that found it in an evaluation, or as missed.

    `found_boxes` has a row for each object, NaN for objects missed at `found_iou`. `ignored` are
    the difficult and crowd regions.
    """
    found = ~np.isnan(found_boxes).any(axis=1)
    canvas = Canvas(image, long_side)
    layers = [
        (ignored, _IGNORED, f"difficult or crowd, not counted ({len(ignored)})"),
        (objects[found], _OBJECT, f"object, found ({found.sum()})"),
        (found_boxes[found], _FINDER, "the proposal that found it"),
        (objects[~found], _MISSED, f"object, missed at IoU {found_iou:g} ({(~found).sum()})"),
    ]
    legend = _draw_layers(canvas, layers)
    labels = [(objects[i], "missed", VERMILLION) for i in _where(~found)]
    for i in _where(found):
        iou = pairwise_iou(found_boxes[i : i + 1], objects[i : i + 1])[0, 0]
        labels.append((found_boxes[i], f"IoU {iou:.2f}", SKY_BLUE))
    canvas.labels(labels)
    return canvas.finish(None, legend)


def draw_matches(
    image: UInt8[np.ndarray, "H W 3"],
    anchors: Float[Array, "A 4"],
    labels: Int[Array, " A"],
    gt_boxes: Float[Array, "G 4"],
    gt_ignore: Bool[Array, " G"] | None = None,
    *,
    title: str | None = None,
    long_side: int = LONG_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the anchors of a sampled mini-batch, which the objectness is trained on.

    `labels` are `ops.matching.Label`; IGNORE marks anchors outside the mini-batch, which are not
    drawn. Negatives are drawn as centres only: some two hundred outlines would hide the image.
    """
    positives, negatives = anchors[labels == Label.POSITIVE], anchors[labels == Label.NEGATIVE]
    objects, ignored = _split(gt_boxes, gt_ignore)
    canvas = Canvas(image, long_side)
    layers = [
        (negatives, _NEGATIVE, f"centre of a negative anchor ({len(negatives)})"),
        (ignored, _IGNORED, f"difficult or crowd, ignored ({len(ignored)})"),
        (positives, _POSITIVE, f"positive anchor ({len(positives)})"),
        (objects, _OBJECT, f"object ({len(objects)})"),
    ]
    return canvas.finish(title, _draw_layers(canvas, layers))


def draw_anchors(
    image: UInt8[np.ndarray, "H W 3"],
    anchors: Float[Array, "A 4"],
    *,
    title: str | None = None,
    long_side: int = LONG_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the anchors of preferably few positions, coloured by size (the root of their area).

    A grey margin widens the picture until all anchors lie in it.
    """
    height, width = image.shape[:2]
    reach = np.concatenate([anchors, [[0, 0, width, height]]])
    left, top = np.ceil(np.maximum(-reach[:, :2].min(axis=0), 0)).astype(int).tolist()
    right, bottom = np.ceil(reach[:, 2:].max(axis=0) - (width, height)).astype(int).tolist()
    wide = cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(225, 225, 225)
    )
    shifted = np.asarray(anchors) + np.array([[left, top, left, top]])
    areas = np.prod(shifted[:, 2:] - shifted[:, :2], axis=1)
    sizes = np.rint(np.sqrt(np.maximum(areas, 0))).astype(int)
    canvas = Canvas(wide, long_side)
    palette = [SKY_BLUE, ORANGE, GREEN, PURPLE, BLUE, VERMILLION, YELLOW]
    layers = [
        (shifted[sizes == size], Stroke(palette[i % len(palette)], 2.0, halo=True), f"size {size}")
        for i, size in enumerate(np.unique(sizes).tolist())
    ]
    # Large anchors first, so that small ones lie on top.
    layers = [*layers[::-1], (shifted, Stroke(WHITE, 0, dot=True), "centre")]
    return canvas.finish(title, _draw_layers(canvas, layers))


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    columns: int = 3,
    *,
    width: int = 2400,
    gap: int = 16,
) -> UInt8[np.ndarray, "H {width} 3"]:
    """Lays pictures out in rows of `columns`; each row is as wide as the sheet.

    The pictures of a row have one height and keep their aspect ratios. A last row with fewer
    pictures is at most as high as the row above. Raises ValueError without a picture.
    """
    if not images:
        raise ValueError("contact_sheet needs at least one image")
    strips = [np.full((gap, width, 3), 255, np.uint8)]
    height = None
    for start in range(0, len(images), columns):
        row = images[start : start + columns]
        shapes = [image.shape[1] / image.shape[0] for image in row]
        full_height = (width - gap * (len(row) + 1)) / sum(shapes)
        ragged = height is not None and len(row) < columns
        height = min(full_height, height) if ragged else full_height
        strip = np.full((round(height) + gap, width, 3), 255, np.uint8)
        x = gap
        for image, shape in zip(row, shapes, strict=True):
            size = (int(height * shape), round(height))
            strip[: size[1], x : x + size[0]] = cv2.resize(
                image, size, interpolation=cv2.INTER_AREA
            )
            x += size[0] + gap
        strips.append(strip)
    return np.concatenate(strips)


def write_image(path: str | os.PathLike, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an RGB image as PNG or JPEG, by the suffix of `path`; makes the folder.

    Raises UserError for another suffix or if the file cannot be written.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in _ENCODER_OPTIONS:
        raise UserError(f"{path}: cannot write a {suffix or 'suffixless'} image; use .png or .jpg")
    _, encoded = cv2.imencode(suffix, image[..., ::-1], _ENCODER_OPTIONS[suffix])
    write_bytes(path, encoded.tobytes())


def _draw_layers(canvas: Canvas, layers) -> list[tuple[Stroke, str]]:
    """Outlines (boxes, stroke, meaning) from the bottom up; returns the legend of those drawn."""
    for boxes, stroke, _ in layers:
        canvas.draw(boxes, stroke)
    return [(stroke, meaning) for boxes, stroke, meaning in reversed(layers) if len(boxes)]


def _split(gt_boxes, gt_ignore) -> tuple[np.ndarray, np.ndarray]:
    """Returns the boxes of objects and those of ignore regions."""
    ignore = np.zeros(len(gt_boxes), bool) if gt_ignore is None else np.asarray(gt_ignore)
    return gt_boxes[~ignore], gt_boxes[ignore]


def _where(mask: Bool[np.ndarray, " n"]) -> list[int]:
    return np.flatnonzero(mask).tolist()
