"""Files of pictures and plots, which appear whole or not at all."""

import os
import pathlib
import tempfile

from rpn_jax.errors import UserError


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Puts `content` into the file `path` at once. Raises UserError if the system refuses."""
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            try:
                part.write(content)
                part.flush()
                os.chmod(part.name, 0o644)  # temporary files are made for their owner only
                os.replace(part.name, path)
            except BaseException:
                os.unlink(part.name)
                raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another place") from error
