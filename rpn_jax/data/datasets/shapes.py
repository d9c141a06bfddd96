"""A detection dataset drawn from a seed: coloured shapes that overlap on textured backgrounds.

It needs no download, so it is what examples, tests and a first training run use.
"""

import functools
import hashlib
import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rpn_jax.data.annotations.segmentations import Mask
from rpn_jax.data.datasets.source import Example, Source
from rpn_jax.data.masks import encode
from rpn_jax.errors import UserError

CLASS_NAMES = ("ellipse", "rectangle", "triangle", "star", "cross")

_MIN_SIZE = 20.0  # sqrt(area) of the smallest box, in pixels
_MAX_SIZE = 0.75  # and of the largest, as a share of the image's side
_MIN_VISIBLE = 0.6  # an object of which less stays in sight is not an object to be found
_MIN_CONTRAST = 70.0  # distance in RGB of an object's colour from what is behind it
_ATTEMPTS = 20  # at placing one object
_OVERSAMPLING = 4
_SUBPIXEL_BITS = 4  # OpenCV is given corners to 1/16 pixel
_TURN = np.linspace(0, 2 * np.pi, 48, endpoint=False)


def read_shapes(
    *, seed: int = 0, image_size: int = 128, num_train: int = 2000, num_test: int = 300
) -> Source:
    """Returns the splits `train` and `test`, each image a function of (seed, split, index).

    Args:
      seed: of everything drawn.
      image_size: side of the square images; at least 32.
      num_train: images of `train`.
      num_test: images of `test`.
    """
    if image_size < 32 or num_train < 1 or num_test < 1:
        raise UserError(
            "shapes: image_size must be at least 32, num_train and num_test at least 1; "
            f"they are {image_size}, {num_train} and {num_test}"
        )
    counts = {"train": num_train, "test": num_test}
    splits = {
        split: [functools.partial(draw_example, seed, split, i, image_size) for i in range(count)]
        for split, count in counts.items()
    }
    settings = repr((seed, image_size, num_train, num_test))
    digest = hashlib.sha256(settings.encode()).hexdigest()
    return Source(CLASS_NAMES, splits, digest, has_masks=True)


def draw_example(seed: int, split: str, index: int, image_size: int) -> Example:
    """Returns image `index` of a split: 1 to 8 shapes, boxes tight around what is in sight."""
    rng = np.random.default_rng([seed, ("train", "test").index(split), index])
    image = _background(rng, image_size)
    solids, in_sight = [], []  # the pixels of each object, and those that nothing covers
    boxes, labels = [], []
    for _ in range(rng.integers(1, 9)):
        for _ in range(_ATTEMPTS):
            label = int(rng.integers(len(CLASS_NAMES)))
            box = _random_box(rng, image_size)
            outline = _fit(_outline(rng, CLASS_NAMES[label]), box)
            mask = _coverage(outline, image_size)
            solid = mask > 0.5
            left = [seen & ~solid for seen in in_sight]
            if any(n.sum() < _MIN_VISIBLE * s.sum() for n, s in zip(left, solids, strict=True)):
                continue
            colour = _colour(rng, saturation=(0.55, 1.0), value=(0.5, 1.0))
            if np.linalg.norm(colour - image[solid].mean(axis=0)) < _MIN_CONTRAST:
                continue
            _paint(rng, image, mask, outline, colour)
            solids.append(solid)
            in_sight = [*left, solid]
            boxes.append(box)
            labels.append(label)
            break
    boxes = [_cut(*one) for one in zip(boxes, solids, in_sight, strict=True)]
    encoded = cv2.imencode(".jpg", _to_uint8(image)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    return Example(
        image=encoded.tobytes(),
        filename=f"{split}/{index:06d}.jpg",
        image_id=index,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignore=np.zeros(len(boxes), bool),
        areas=None,
        declared_hw=(image_size, image_size),
        read_masks=functools.partial(_masks, in_sight),
    )


def _masks(in_sight: Sequence[Bool[np.ndarray, "H W"]], height: int, width: int) -> list[Mask]:
    """Returns the masks of the objects: the pixels that are in sight."""
    del height, width  # as drawn
    return [Mask(encode(bitmap)) for bitmap in in_sight]


def _cut(
    box: Float[np.ndarray, "4"], solid: Bool[np.ndarray, "H W"], in_sight: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "4"]:
    """Returns the box with each side that is covered moved in to the first pixel in sight."""
    whole, seen = _extent(solid), _extent(in_sight)
    return np.where(seen == whole, box, seen)


def _extent(mask: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "4"]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _random_box(rng: np.random.Generator, image_size: int) -> Float[np.ndarray, "4"]:
    """Returns a box inside the image, sizes and aspect ratios (1:2 to 2:1) log-uniform."""
    size = np.exp(rng.uniform(np.log(_MIN_SIZE), np.log(_MAX_SIZE * image_size)))
    root = np.exp(rng.uniform(-0.5, 0.5) * np.log(2))
    wh = np.minimum([size * root, size / root], image_size - 2.0)
    x1y1 = rng.uniform(1.0, image_size - 1.0 - wh)
    return np.concatenate([x1y1, x1y1 + wh])


def _outline(rng: np.random.Generator, kind: str) -> Float[np.ndarray, "V 2"]:
    """Returns the corners of a shape of any size about the origin, turned at random."""
    if kind == "ellipse":
        corners = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
    elif kind == "rectangle":
        corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        return corners if rng.random() < 0.5 else _turned(corners, rng.uniform(0, math.pi / 2))
    elif kind == "triangle":
        angles = np.arange(3) * 2 * math.pi / 3 + rng.uniform(-0.4, 0.4, 3)
        corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind == "star":
        points = rng.integers(5, 8)
        angles = np.arange(2 * points) * math.pi / points
        radii = np.where(np.arange(2 * points) % 2, rng.uniform(0.4, 0.6), 1.0)
        corners = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:  # cross: an arm, turned three times
        a = rng.uniform(0.25, 0.45)
        arm = np.array([[a, -a], [1.0, -a], [1.0, a]])
        corners = np.concatenate([_turned(arm, k * math.pi / 2) for k in range(4)])
    return _turned(corners, rng.uniform(0, 2 * math.pi))


def _turned(corners: Float[np.ndarray, "V 2"], angle: float) -> Float[np.ndarray, "V 2"]:
    c, s = math.cos(angle), math.sin(angle)
    return corners @ np.array([[c, s], [-s, c]])


def _fit(
    corners: Float[np.ndarray, "V 2"], box: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "V 2"]:
    """Returns the corners stretched so that they touch all four sides of the box."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    return box[:2] + (corners - low) / (high - low) * (box[2:] - box[:2])


def _coverage(corners: Float[np.ndarray, "V 2"], size: int) -> Float[np.ndarray, "H W"]:
    """Returns how much of each pixel lies within the outline, 0 to 1."""
    # Drawn larger and averaged: OpenCV's own anti-aliasing makes shapes 1.4 pixels too wide.
    mask = np.zeros((size * _OVERSAMPLING, size * _OVERSAMPLING), np.uint8)
    # OpenCV's integer coordinates are pixel centres, which lie at 0.5 in ours.
    points = np.round((corners * _OVERSAMPLING - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, shift=_SUBPIXEL_BITS)
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _paint(
    rng: np.random.Generator,
    image: Float[np.ndarray, "H W 3"],
    mask: Float[np.ndarray, "H W"],
    outline: Float[np.ndarray, "V 2"],
    colour: Float[np.ndarray, "3"],
) -> None:
    """Paints the shape over the image; half of the shapes have a rim of another shade."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    (x1, y1), (x2, y2) = np.floor(low).astype(int).tolist(), np.ceil(high).astype(int).tolist()
    window = np.s_[y1:y2, x1:x2]
    filling = colour * (1 + 0.25 * _pattern(rng, y2 - y1, x2 - x1))[:, :, None]
    shade = rng.choice([0.55, 1.35])
    if rng.random() < 0.5:
        centre = (low + high) / 2
        inner = _coverage(centre + 0.82 * (outline - centre), len(image))[window][:, :, None]
        filling = inner * filling + (1 - inner) * colour * shade
    alpha = mask[window][:, :, None]
    image[window] += alpha * (np.clip(filling, 0, 255) - image[window])


def _background(rng: np.random.Generator, size: int) -> Float[np.ndarray, "H W 3"]:
    """Returns two muted colours mixed by a pattern, with grain on top."""
    one, other = (_colour(rng, saturation=(0.0, 0.35), value=(0.25, 0.9)) for _ in range(2))
    mix = (0.5 + 0.5 * _pattern(rng, size, size))[:, :, None]
    grain = rng.uniform(2, 10) * rng.standard_normal((size, size, 1), np.float32)
    return np.clip(mix * one + (1 - mix) * other + grain, 0, 255)


def _pattern(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "H W"]:
    """Returns a texture from -1 to 1: a gradient, stripes, checks or clouds."""
    side = max(height, width)
    y = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / side
    x = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / side
    angle = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    frequency = rng.uniform(4, 16) * math.pi
    kind = rng.integers(4)
    if kind == 0:
        return along * math.sqrt(2)
    if kind == 1:
        return np.sin(frequency * along)
    if kind == 2:
        return np.tanh(4 * np.sin(frequency * along) * np.sin(frequency * across))
    cells = int(rng.integers(3, 12))
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)


def _colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> Float[np.ndarray, "3"]:
    """Returns a random colour, RGB from 0 to 255."""
    hue = rng.uniform(0, 6)
    s, v = rng.uniform(*saturation), rng.uniform(*value)
    # The usual hexagon: each channel is a clipped triangle wave of the hue.
    distance = np.abs((hue - np.array([0, 2, 4]) + 3) % 6 - 3)
    return (255 * v * (1 - s * np.clip(distance - 1, 0, 1))).astype(np.float32)


def _to_uint8(image: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return np.round(image).astype(np.uint8)
