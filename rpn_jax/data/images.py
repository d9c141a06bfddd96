"""Image files of any origin: read, checked by their headers, decoded the way up that is meant.

A camera stores pixels as its sensor gave them and an *orientation* beside them (EXIF tag 0x0112, 1
to 8), by which viewers turn them. A *turn* is such a number, applied to what OpenCV decodes.
"""

import io
import os
import pathlib
import stat
import struct
import warnings
import zlib
from collections.abc import Collection
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rpn_jax.errors import UserError

# By Pillow's names. Its plugins for other formats, some of them seldom looked at, stay closed.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Of the files in a folder.
SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
_NAMED = SUFFIXES | {".heic", ".heif"}  # HEIC is not read, and a line says so
_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 0x0100, 0x0101
_MAX_BYTES = 2**30
_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
# Pillow warns of images that are large but allowed, and of EXIF that it cannot read; OpenCV of
# what becomes an error here, without the file's name.
warnings.filterwarnings("ignore", module=r"PIL\.")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Header(NamedTuple):
    """What an image's header says: the size as stored, and the EXIF orientation (1: none).

    The turns lead from what OpenCV decodes to the pixels shown and stored: OpenCV turns TIFFs by
    itself, and can be told not to turn the others.
    """

    height: int
    width: int
    orientation: int
    shown_turn: int
    stored_turn: int

    def shown_hw(self) -> tuple[int, int]:
        """Returns the height and width that a viewer shows."""
        height, width = self.height, self.width
        return (width, height) if self.orientation >= 5 else (height, width)


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns what has the name of an image in a folder and below, sorted; readable or not.

    Raises:
      UserError: there is none.
    """
    return image_files_and_others(folder)[0]


def image_files_and_others(
    folder: pathlib.Path,
    more: Collection[str] = (),
    without: pathlib.Path | None = None,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns what has the name of an image in a folder and below, and the other files; sorted.

    Args:
      folder: to search.
      more: suffixes beside those of images.
      without: a folder that is left out, if it lies in this one.

    Raises:
      UserError: there is no image.
    """
    paths = sorted(folder.rglob("*"))
    root, left_out = folder.resolve(), without and without.resolve()
    if left_out and left_out.is_relative_to(root):
        place = folder / left_out.relative_to(root)
        paths = [path for path in paths if not path.is_relative_to(place)]
    taken = {*_NAMED, *more}
    found = [path for path in paths if path.suffix.lower() in taken]
    others = [path for path in paths if path.suffix.lower() not in taken and not path.is_dir()]
    if not found:
        there = f", only others such as {others[0].relative_to(folder)}" if others else ""
        raise UserError(
            f"{folder}: no images are in it or below{there}; give a folder that holds "
            f"{', '.join(sorted({*SUFFIXES, *more}))} files"
        )
    return found, others


def read_image(path: str | os.PathLike) -> bytes:
    """Returns the content of an image file.

    Raises:
      UserError: it cannot be read, is no regular file (reading a pipe may wait for ever), or is
        larger than 1 GiB.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file, so no image is read from it")
        if status.st_size > _MAX_BYTES:
            raise UserError(f"{path}: larger than 1 GiB; make the image smaller")
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_header(data: bytes, filename: str) -> Header:
    """Returns what the header of an image file says; decodes no pixels.

    Raises:
      UserError: it is no image of `FORMATS`, or has more pixels than Pillow takes for harmless
        (179 million): a file of 100 kB may unfold to gigabytes.
    """
    if not data:
        raise UserError(f"{filename}: the image file is empty")
    if data.startswith(_PNG_START) and not _is_whole_png(data):
        raise UserError(f"{filename}: the PNG is truncated, or damaged")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{filename}: the image has more than {2 * Image.MAX_IMAGE_PIXELS} pixels; "
            "make it smaller"
        ) from error
    except Exception as error:  # of many kinds, as files can be broken in many ways
        raise UserError(f"{filename}: {_what_else(data)}") from error
    if image.format == "TIFF":
        # Pillow's own size is that of the pixels shown.
        height, width = image.tag_v2[_TIFF_HEIGHT], image.tag_v2[_TIFF_WIDTH]
        orientation = _valid(image.tag_v2.get(_ORIENTATION))
        return Header(height, width, orientation, 1, _inverse(orientation))
    orientation = _exif_orientation(image)
    return Header(image.height, image.width, orientation, orientation, 1)


def _what_else(data: bytes) -> str:
    """Returns what a file is that Pillow does not open as an image."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "a HEIC image, which is not read; convert it, to JPEG"
    if brand and not brand.startswith(b"avi"):
        return "a video under the name of an image; give it a name that ends in .mp4"
    return f"not an image, a truncated one, or of another format than {', '.join(FORMATS)}"


def _is_whole_png(data: bytes) -> bool:
    """Returns whether a PNG's chunks lie within it, the last one included, and are as written.

    OpenCV 5 allocates what a chunk's length says, up to 4 GB, before it looks for the content.
    Pillow decodes pixels whose checksum is wrong. Nobody's picture depends on chunks whose kind
    begins with a small letter.
    """
    position, kind = len(_PNG_START), b""
    while kind != b"IEND" and position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length  # after its length, kind and content; the checksum follows
        if end + 4 > len(data):
            return False
        (checksum,) = struct.unpack_from(">I", data, end)
        if kind[:1].isupper() and checksum != zlib.crc32(memoryview(data)[position + 4 : end]):
            return False
        position = end + 4
    return kind == b"IEND"


def _exif_orientation(image: Image.Image) -> int:
    """Returns the orientation, as EXIF alone has it: viewers heed no other."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif"))
    except Exception:  # of many kinds; a viewer shows an image with broken EXIF unturned
        return 1
    return _valid(exif.get(_ORIENTATION))


def _valid(orientation: object) -> int:
    return int(orientation) if orientation in range(1, 9) else 1


def _inverse(turn: int) -> int:
    """Returns the turn that undoes one: 6 and 8 are quarter turns, all others undo themselves."""
    return {6: 8, 8: 6}.get(turn, turn)


def decode_image(data: bytes, filename: str, turn: int | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the RGB pixels; grey and transparent images become RGB, 16 bits become 8.

    Args:
      data: the content of the file.
      filename: for messages.
      turn: how what OpenCV decodes is turned. By default as a viewer shows the image, after a
        look at its header; of prepared data it is known.

    Raises:
      UserError: see `read_header`; or OpenCV does not decode it, or a JPEG was cut short.
    """
    if turn is None:
        turn = read_header(data, filename).shown_turn
    # OpenCV 4 fills what is missing of a truncated JPEG with grey; OpenCV 5 returns None.
    # (0xFFD9 cannot occur inside a scan, and thumbnails lie before it.)
    if data.startswith(_JPEG_START) and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
        raise UserError(f"{filename}: the JPEG is truncated (no end-of-image marker)")
    encoded = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # e.g. more pixels than OpenCV is willing to allocate
        raise UserError(f"{filename}: OpenCV cannot decode this image ({error.err})") from error
    if image is None:
        raise UserError(f"{filename}: not an image that OpenCV can decode, or a truncated one")
    return _turned(image, turn)


def _turned(image: UInt8[np.ndarray, "H W 3"], turn: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image turned as the EXIF orientation of that number asks."""
    if turn in (5, 6, 7, 8):
        image = cv2.transpose(image)
    # After the transposition: 5 is done, 6 mirrors columns, 8 rows, 7 both.
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(turn)
    return image if flip is None else cv2.flip(image, flip)
