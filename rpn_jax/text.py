"""Text from outside, such as names of files, classes and runs, made safe for what shows it."""

import html
import re
import shlex
import unicodedata
from collections.abc import Sequence
from typing import Any

# What Markdown gives a meaning inside a line; each may stand behind a backslash (CommonMark 2.4).
_MARKDOWN = re.compile(r"([\\`*_\[\]~|])")
_FORMULA = tuple("=+-@\t\r")


def printable(text: Any) -> str:
    r"""Returns text in one line, with what a terminal would obey as escapes: ESC as `\x1b`.

    Those are control characters, newlines and what turns the direction of writing; halves of
    surrogate pairs, which stand for bytes that are no UTF-8, and what Unicode has not assigned.
    Spaces of every script stay, and so do backslashes.

    >>> printable("a\x1b[31mb\nc")
    'a\\x1b[31mb\\nc'
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def csv_cell(value: Any) -> Any:
    """Returns a value as a CSV may hold it: numbers as they are, text that is no formula.

    A spreadsheet computes what begins with = + - or @; an apostrophe before it keeps it text.

    >>> csv_cell("=1+1"), csv_cell(-1.5), csv_cell("-1.5")
    ("'=1+1", -1.5, '-1.5')
    """
    if not isinstance(value, str):
        return value
    if value.startswith(_FORMULA) and not _is_number(value):
        value = f"'{value}"
    return printable(value)


def markdown(text: str) -> str:
    r"""Returns text that Markdown shows as it is: no tag, no link, no emphasis, in one line.

    >>> print(markdown("<b> [a](javascript:b)"))
    &lt;b&gt; \[a\](javascript:b)
    """
    return html.escape(_MARKDOWN.sub(r"\\\1", printable(text)), quote=False)


def shell_line(words: Sequence[object]) -> str:
    r"""Returns a command as bash and zsh take it, in one line that can be copied.

    It holds no tag and no link either, for pages that show it.

    >>> print(shell_line(["git", "apply", "a b.patch", "c\n\x1bd"]))
    git apply 'a b.patch' $'c\n\x1bd'
    """
    return " ".join(
        f"$'{''.join(map(_ansi_c, word))}'"
        if not word.isprintable() or "<" in word or "](" in word
        else shlex.quote(word)
        for word in map(str, words)
    )


def _ansi_c(letter: str) -> str:
    """Returns a letter as it stands between $' and '."""
    if letter in "\\'":
        return f"\\{letter}"
    code = ord(letter)
    if letter in "<]":
        return f"\\x{code:02x}"
    if letter.isprintable():
        return letter
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF:  # \x would be a byte
        return f"\\u{code:04x}"
    return letter.encode("unicode_escape").decode()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
