"""Videos of pictures."""

import contextlib
import pathlib
import uuid
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

from rpn_jax.errors import UserError

Picture = UInt8[np.ndarray, "H W 3"]


@contextlib.contextmanager
def writing_video(path: pathlib.Path) -> Iterator[Callable[[Picture, float], None]]:
    """Yields a function that adds an RGB picture to the MP4 file `path`, whole at the block's end.

    It takes the frames per second too; those of the first picture count. All pictures get the size
    of the first, to even numbers. Without a picture there is no file.

    Raises:
      UserError: the file cannot be written.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.mp4")
    writer: cv2.VideoWriter | None = None
    size = 0, 0

    def add(picture: Picture, rate: float) -> None:
        nonlocal writer, size
        if writer is None:
            size = picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2
            writer = _opened(temporary, path, rate, size)
        if picture.shape[1::-1] != size:
            picture = cv2.resize(picture, size)
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    try:
        yield add
        if writer is not None:
            writer.release()
            temporary.replace(path)
    finally:
        if writer is not None:
            writer.release()
        with contextlib.suppress(OSError):
            temporary.unlink()


def _opened(
    file: pathlib.Path, path: pathlib.Path, rate: float, size: tuple[int, int]
) -> cv2.VideoWriter:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); give another --out"
        ) from error
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, code, rate, size)
    if not writer.isOpened():
        raise UserError(f"{path}: cannot be written as a video; give another --out")
    return writer
