"""Small videos, written with OpenCV."""

import pathlib

import cv2
import numpy as np


def write_clip(path: pathlib.Path, frames: np.ndarray, rate: float = 10.0) -> pathlib.Path:
    """Writes RGB frames (N, H, W, 3) as motion JPEG, whose frames are whole pictures."""
    size = frames.shape[2], frames.shape[1]
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate, size)
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def red_then_brighter(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Returns frames with a red stripe at the left; the rest is brighter in each."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:] = (20 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    frames[:, :, : width // 4] = (200, 0, 0)
    return frames
