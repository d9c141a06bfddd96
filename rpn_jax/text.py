"""Text from outside, such as names of files, classes and runs, made safe for what shows it."""

import html
import re
import unicodedata
from typing import Any

# What Markdown gives a meaning inside a line; each may stand behind a backslash (CommonMark 2.4).
_MARKDOWN = re.compile(r"([\\`*_\[\]~|!])")
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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
