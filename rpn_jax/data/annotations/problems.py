"""What is wrong in annotations: the first thing ends the reading, or all of it is kept."""

import pathlib

from rpn_jax.errors import UserError

REMEDY = "mend or remove it, or leave such entries out with --skip-bad"


class Problems:
    """What of one file cannot be used; without `skip_bad` the first raises a `UserError`.

    Attributes:
      found: what was added, `entry: field=value is …`.
    """

    def __init__(self, file: pathlib.Path | str, skip_bad: bool):
        self.file = str(file)
        self.found: list[str] = []
        self._skip_bad = skip_bad

    def add(self, what: str) -> None:
        """Keeps what is wrong with an entry, or raises it."""
        if not self._skip_bad:
            raise UserError(f"{self.file}: {what}; {REMEDY}")
        self.found.append(what)
