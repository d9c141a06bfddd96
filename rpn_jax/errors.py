"""What the command line shows as a line, without a traceback."""

import difflib
from collections.abc import Collection, Iterable

from rpn_jax.text import printable


class UserError(Exception):
    """Something that the user can put right; the message is one line that says how.

    It names the file or the config field, what is wrong with it, and the remedy. Control
    characters in it, such as names may hold, are escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class StoppedError(BaseException):
    """A run was asked to stop, has saved, and goes on when its command is given again.

    No `Exception`, as `KeyboardInterrupt` is none: a signal may come where a file is read, and what
    catches all that a damaged file may raise must not take it for that.
    `interrupted` says that it was asked by Ctrl-C, so that nobody should start it again.
    """

    def __init__(self, message: str, *, interrupted: bool = False):
        super().__init__(printable(message))
        self.interrupted = interrupted


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or its name where it says nothing."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0])


def list_some(names: Iterable[str], limit: int = 8) -> str:
    """Returns the names with commas, cut after a few, for a one-line message."""
    names = [printable(name) for name in names]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def unknown_name(name: str, known: Collection[str]) -> str:
    """Returns what is wrong with a name that is not known: the nearest one, and all of them."""
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"is unknown; {hint}use one of {', '.join(known)}"
