"""Video files, decoded frame by frame by the FFmpeg that OpenCV brings."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from rpn_jax.errors import UserError

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
# FFmpeg tells formats by content, and some are playlists that name other files or addresses.
_FORMATS = "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts"
_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_OPTIONS = f"protocol_whitelist;file|format_whitelist;{_FORMATS}"
# FFmpeg says without the file's name what becomes an error here. It looks at this once.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
_USUAL_RATE = 25.0
_ENOUGH = 0.9  # part of the declared length; what containers declare is not exact


class Frame(NamedTuple):
    """A frame of a video.

    Fields:
      index: its place, from 0.
      seconds: since the beginning.
      rate: frames per second of the video, as far as it says them.
      pixels: RGB, the way up that players show.
    """

    index: int
    seconds: float
    rate: float
    pixels: UInt8[np.ndarray, "H W 3"] | None


def is_video(path: str | os.PathLike) -> bool:
    """Returns whether a file has the name of a video."""
    return pathlib.Path(path).suffix.lower() in SUFFIXES


def read_frames(path: str | os.PathLike) -> Iterator[Frame]:
    """Yields the frames of a video, one after another; only the last is held in memory.

    Raises:
      UserError: the file is no video that can be read; or, behind the frames that can be, it ends
        before its end.
    """
    path = pathlib.Path(path)
    with _opened(path) as video:
        rate, declared = _rate(video), video.get(cv2.CAP_PROP_FRAME_COUNT)
        index, seconds = -1, 0.0
        while True:
            is_read, pixels = video.read()
            if not is_read:
                break
            index += 1
            at = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
            seconds = at if at > seconds else index / rate
            yield Frame(index, round(seconds, 4), rate, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    if index < 0:
        raise UserError(f"{path}: has no frame that can be decoded; convert it, to H.264 in MP4")
    # Of frames that are unevenly spaced, the declared number follows from the length.
    expected = _ENOUGH * declared
    if index + 1 < expected and seconds + 1 / rate < expected / rate:
        raise UserError(
            f"{path}: is damaged behind its first {index + 1} frames of about {declared:.0f}; what "
            "is found in those stays"
        )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[cv2.VideoCapture]:
    with _safe():
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG) if path.is_file() else None
    try:
        if video is None or not video.isOpened():
            what = "is no video that can be read" if path.is_file() else "no such video"
            raise UserError(f"{path}: {what}; give an MP4, MOV, AVI, MKV, WebM or MPEG file")
        yield video
    finally:
        if video is not None:
            video.release()


@contextlib.contextmanager
def _safe() -> Iterator[None]:
    """Within it OpenCV opens videos with `_OPTIONS`."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = _OPTIONS
    try:
        yield
    finally:
        del os.environ[_VARIABLE]
        if before is not None:
            os.environ[_VARIABLE] = before


def _rate(video: cv2.VideoCapture) -> float:
    rate = video.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= 1000 else _USUAL_RATE
