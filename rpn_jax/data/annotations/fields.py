"""One value of an annotation file, of whatever type it came: what it means, if that is plain.

Each function takes what JSON or the text of an XML element can hold and returns the one meaning
that it has, or raises `FieldError`, to which the reader adds the file, the entry and the field.
"""

import json
import math
import re
import unicodedata
from typing import Any

from rpn_jax.text import printable

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"0|-?[1-9]\d*", re.ASCII)
_FLAGS = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
_LARGEST_SIDE = 2**31
_SHOWN = 80  # characters of a value


class FieldError(ValueError):
    """A value means nothing where it stands."""


def shown(value: Any) -> str:
    """Returns a value as a JSON file has it, cut to fit into a line."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):  # nested too deeply, or an integer too long to print
        text = f"{type(value).__name__} …"
    text = printable(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def number(value: Any) -> float:
    """Returns a finite number; also of one that is written as text, such as "96"."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = value.strip()
    elif isinstance(value, str | bool) or not isinstance(value, int | float):
        raise FieldError(f"{shown(value)} is no number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise FieldError(f"{shown(value)} is not a finite number")
    return result


def side(value: Any) -> int | None:
    """Returns the pixels of an image's side; None for what stands for "not known": none, or 0."""
    if value is None or value == "":
        return None
    pixels = number(value)
    if pixels != int(pixels) or not 0 <= pixels < _LARGEST_SIDE:
        raise FieldError(f"{shown(value)} is no number of pixels")
    return int(pixels) or None


def flag(value: Any) -> bool:
    """Returns 0, false and no, or 1, true and yes, as number, boolean or text; none is False."""
    if value is None or value == "":
        return False
    written = value.strip() if isinstance(value, str) else value
    if isinstance(value, int | float):
        written = "1" if value == 1 else "0" if value == 0 else ""
    meaning = _FLAGS.get(written.lower()) if isinstance(written, str) else None
    if meaning is None:
        raise FieldError(f"{shown(value)} is neither 0 nor 1, false nor true, no nor yes")
    return meaning


def identifier(value: Any) -> int | str:
    """Returns an id: a whole number, also one that is written as text, or any other text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.strip():
        value = value.strip()
        # A longer one is a name; Python does not convert it.
        return int(value) if _WHOLE.fullmatch(value) and len(value) < 100 else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise FieldError(f"{shown(value)} is no id, which is a whole number or a text")


def text(value: Any) -> str:
    """Returns a text that is not empty and that UTF-8 can hold."""
    if not isinstance(value, str) or not value.strip():
        raise FieldError(f"{shown(value)} is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FieldError(f"{shown(value)} holds half of a character") from error
    return value


def class_name(value: Any) -> str:
    """Returns the name of a class: one line, control characters escaped, accents composed.

    Unicode has two forms of an accented letter, NFC (composed) and NFD, which look the same.
    """
    return printable(unicodedata.normalize("NFC", text(value).strip()))
