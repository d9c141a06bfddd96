"""Drawing on pictures: outlines, labels in free places, a legend.

All boxes are upright, so their outlines lie on whole pixels: that is crisper than anti-aliasing,
which outlines of masks need. Text is set in Matplotlib's DejaVu Sans.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from rpn_jax.typing import Array

Color = tuple[int, int, int]

# Okabe and Ito's palette: distinct with every common kind of colour blindness.
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (160, 160, 160)
ORANGE, SKY_BLUE, GREEN, YELLOW = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)
BLUE, VERMILLION, PURPLE = (0, 114, 178), (213, 94, 0), (204, 121, 167)


@dataclasses.dataclass(frozen=True)
class Stroke:
    """The drawing style of a box, or of a mask.

    `width` and `dash` are in 1/600 of the picture's longer side.

    `width` is the outline's width, 0 for none. `dash` is the length of a dash and of the gap after
    it, None for a solid line. `halo` puts a dark rim around the line, visible on any photograph.
    `dot` marks the box's centre. `fill` is the opacity of a mask's inside.
    """

    color: Color
    width: float | int = 1
    alpha: float | int = 1
    dash: float | int | None = None
    halo: bool = False
    dot: bool = False
    fill: float | int = 0


class Canvas:
    """A copy of an RGB image to draw on; boxes and labels are given in the image's coordinates.

    A smaller copy is enlarged to a longer side of `long_side` pixels, so that lines are thin beside
    small objects and letters are sharp.
    """

    def __init__(self, image: UInt8[np.ndarray, "H W 3"], long_side: int):
        self.scale = max(1.0, long_side / max(image.shape[:2]))
        size = [round(side * self.scale) for side in image.shape[1::-1]]
        # CUBIC also copies at scale 1.
        self.pixels = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        self.unit = max(size) / 600
        self.letter = max(10, round(11 * self.unit))

    def draw(self, boxes: Float[Array, "n 4"], stroke: Stroke) -> None:
        """Draws every box; what lies outside the image is cut off."""
        for box in np.asarray(boxes) * self.scale:
            _draw(self.pixels, box, stroke, self.unit)

    def draw_mask(self, mask: Bool[np.ndarray, "h w"], stroke: Stroke) -> None:
        """Draws a mask of the image, whose rows and columns may be of another count than its."""
        inside = _stretched(mask, self.pixels.shape[1::-1])
        outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        width, rim, dash = _lengths(stroke, self.unit)
        _tint(self.pixels, inside, stroke.color, stroke.fill)
        if stroke.halo:
            _tint(self.pixels, _inked(inside, outlines, width + 2 * rim), BLACK, 0.5 * stroke.alpha)
        lines = outlines if dash is None else [d for line in outlines for d in _cut(line, dash)]
        _tint(self.pixels, _inked(inside, lines, width, dash is None), stroke.color, stroke.alpha)

    def labels(
        self,
        labels: Sequence[tuple[Float[Array, "4"], str, Color]],
        *,
        most_covered: float | int = 1,
    ) -> None:
        """Writes (box, text, colour) on a filled tag at each box, the most important first.

        A tag takes the first free one of six places at its box, inside the image; without a free
        place the label is left out, and once tags cover the part `most_covered` of the picture.
        """
        height, width = self.pixels.shape[:2]
        pad = max(2, self.letter // 4)
        taken: list[tuple[int, int, int, int]] = []
        left = most_covered * height * width
        for box, text, color in labels:
            w, h = _text_width(text, self.letter) + 2 * pad, self.letter + 2 * pad
            x1, y1, x2, y2 = (round(float(value)) for value in np.asarray(box) * self.scale)
            above, below = y1 - h, y2
            places = [(x1, above), (x2 - w, above), (x1, below), (x2 - w, below), (x1, y1)]
            places.append((x1, y2 - h))
            for x, y in places:
                tag = (x, y, x + w, y + h)
                inside = min(x, y) >= 0 and x + w <= width and y + h <= height
                free = w * h <= left and not any(_overlap(tag, other) for other in taken)
                if inside and free:
                    taken.append(tag)
                    left -= w * h
                    _fill(self.pixels, *tag, color, 0.92)
                    _write(self.pixels, x + pad, y + h // 2, text, self.letter, _ink(color))
                    break

    def finish(
        self, title: str | None, legend: Sequence[tuple[Stroke, str]]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the picture between a white strip with the title and one with the legend.

        The legend shows each stroke beside its meaning, in as many lines as needed.
        """
        strips = [self.pixels]
        if title:
            size = round(1.3 * self.letter)
            strips.insert(0, _strip(2 * size, self.pixels))
            _write(strips[0], self.letter, size, title, size, bold=True)
        if legend:
            strips.append(self._legend(legend))
        return np.concatenate(strips)

    def _legend(self, entries: Sequence[tuple[Stroke, str]]) -> UInt8[np.ndarray, "h w 3"]:
        em = self.letter
        placed, x, line = [], em, 0
        for stroke, text in entries:
            width = 3 * em + _text_width(text, em)
            if x > em and x + width > self.pixels.shape[1]:
                x, line = em, line + 1
            placed.append((x, line, stroke, text))
            x += width + em
        strip = _strip(2 * em * (line + 1) + em // 2, self.pixels)
        for x, line, stroke, text in placed:
            middle = 2 * em * line + 5 * em // 4
            # Light and faint lines look on dark grey as on the photograph.
            swatch = strip[middle - 3 * em // 4 : middle + 3 * em // 4, x : x + 2 * em]
            swatch[:] = 70
            box = np.array([0.2, 0.2, 1.8, 1.3]) * em
            _fill(swatch, *np.rint(box).astype(int).tolist(), stroke.color, stroke.fill)
            _draw(swatch, box, stroke, self.unit)
            _write(strip, x + 5 * em // 2, middle, text, em)
        return strip


def _draw(pixels, box, stroke: Stroke, unit: float) -> None:
    """Draws the outline just inside the box, so that the image's border does not cut it."""
    width, rim, dash = _lengths(stroke, unit)
    if stroke.halo:
        wider = (box[0] - rim, box[1] - rim, box[2] + rim, box[3] + rim)
        _outline(pixels, wider, width + 2 * rim, BLACK, 0.5 * stroke.alpha, None)
    _outline(pixels, box, width, stroke.color, stroke.alpha, dash)
    if stroke.dot:
        center = [round(float(value)) for value in (box[:2] + box[2:]) / 2]
        radius = max(2, round(1.6 * unit))
        cv2.circle(pixels, center, radius + 1, BLACK, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(pixels, center, radius, stroke.color, cv2.FILLED, cv2.LINE_AA)


def _lengths(stroke: Stroke, unit: float) -> tuple[int, int, int | None]:
    """Returns the width of a line, of its rim, and its period of a dash and a gap, in pixels."""
    width = max(1, round(stroke.width * unit)) if stroke.width else 0
    period = None if stroke.dash is None else max(2, round(2 * stroke.dash * unit))
    return width, max(1, width // 3), period


def _stretched(mask: Bool[np.ndarray, "h w"], size: Sequence[int]) -> UInt8[np.ndarray, "H W"]:
    """Returns a mask at a picture's size, (W, H), in 255ths, without the steps of its pixels."""
    wide = cv2.resize(np.asarray(mask, np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
    step = size[0] / mask.shape[1]
    if step > 1:
        wide = cv2.GaussianBlur(wide, (0, 0), 0.5 * step)
    return np.where(wide > 127, np.uint8(255), np.uint8(0))


def _cut(line: np.ndarray, period: int) -> list[np.ndarray]:
    """Returns the dashes (n, 1, 2) of a closed line of pixels."""
    return [line[i : i + period // 2] for i in range(0, len(line), period)]


def _inked(
    like: UInt8[np.ndarray, "H W"], lines: Sequence[np.ndarray], width: int, closed: bool = True
) -> UInt8[np.ndarray, "H W"]:
    """Returns how far each pixel is covered by lines, in 255ths."""
    ink = np.zeros_like(like)
    return cv2.polylines(ink, lines, closed, 255, width, cv2.LINE_AA) if width else ink


def _tint(pixels, ink: UInt8[np.ndarray, "H W"], color: Color, alpha: float | int) -> None:
    """Blends `color` into the pixels, each as far as it is covered by the ink."""
    x, y, width, height = cv2.boundingRect(ink)
    patch = pixels[y : y + height, x : x + width]
    part = ink[y : y + height, x : x + width, None] * (alpha / 255)
    patch[:] = np.rint(patch * (1 - part) + np.array(color) * part)


def _outline(pixels, box, width: int, color: Color, alpha: float | int, period: int | None) -> None:
    """Fills the four sides of a box; no pixel is filled twice, so corners have the same alpha."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    # A box narrower than its lines is filled.
    inner_x, inner_y = max(x2 - width, x1), max(y2 - width, y1 + width)
    for start, stop in _dashes(x1, x2, period):
        _fill(pixels, start, y1, stop, y1 + width, color, alpha)
        _fill(pixels, start, inner_y, stop, y2, color, alpha)
    for start, stop in _dashes(y1 + width, y2 - width, period):
        _fill(pixels, x1, start, min(x1 + width, inner_x), stop, color, alpha)
        _fill(pixels, inner_x, start, x2, stop, color, alpha)


def _dashes(start: int, stop: int, period: int | None) -> Iterator[tuple[int, int]]:
    if period is None:
        return iter([(start, stop)])
    return ((x, min(x + period // 2, stop)) for x in range(start, stop, period))


def _fill(pixels, x1: int, y1: int, x2: int, y2: int, color: Color, alpha: float | int) -> None:
    """Blends `color` into the image's pixels with x1 <= x < x2 and y1 <= y < y2."""
    patch = pixels[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    patch[:] = np.rint(patch * (1 - alpha) + np.array(color) * alpha)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _strip(height: int, like: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h W 3"]:
    return np.full((height, like.shape[1], 3), 255, np.uint8)


def _ink(background: Color) -> Color:
    """Returns black or white, whichever is easier to read on `background`."""
    return BLACK if np.dot(background, (0.299, 0.587, 0.114)) > 110 else WHITE


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    import matplotlib  # takes 10 MB of memory; training needs it for pictures alone

    file = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{file}", size)


def _text_width(text: str, size: int) -> int:
    return round(_font(size, False).getlength(text))


def _write(pixels, x: int, y: int, text: str, size: int, color=BLACK, bold=False) -> None:
    """Writes a line of text that starts at x and is centred on y; `size` is the em in pixels."""
    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).text((x, y), text, color, _font(size, bold), anchor="lm")
    pixels[:] = np.asarray(picture)
