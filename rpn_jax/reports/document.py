"""The parts of a report, written as one HTML page and as Markdown."""

import base64
import functools
import math
import mimetypes
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe

from rpn_jax.files import regular, write_bytes
from rpn_jax.text import markdown, printable


class Cell(NamedTuple):
    """A table cell with several lines or emphasis; other cells are strings."""

    lines: tuple[str, ...]
    is_strong: bool = False

    def __str__(self) -> str:
        """Returns the lines as one, for a terminal."""
        return " ".join(self.lines)


class Text(NamedTuple):
    """A paragraph."""

    text: str
    kind: str = "text"


class Code(NamedTuple):
    """Commands for a terminal, a line each."""

    lines: Sequence[str]
    kind: str = "code"


class Table(NamedTuple):
    """Rows of cells below a header; the first `names` columns are words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    names: int = 1
    note: str = ""
    kind: str = "table"


class Picture(NamedTuple):
    """An image file, relative to the folder of the report, with what it shows."""

    file: str
    text: str
    has_caption: bool = False


class Pictures(NamedTuple):
    """Images side by side, as many as fit, or two if `are_wide`."""

    pictures: Sequence[Picture]
    are_wide: bool = False
    kind: str = "pictures"


class Fold(NamedTuple):
    """Parts that are folded until the reader opens them."""

    title: str
    parts: Sequence[Text | Code | Table | Pictures]
    kind: str = "fold"


Part = Text | Code | Table | Pictures | Fold


class Section(NamedTuple):
    """Parts below a heading."""

    title: str
    parts: Sequence[Part]


def percent(ratio: float) -> str:
    """Returns a ratio in per cent as the text of a cell; a dash for no value."""
    return "–" if math.isnan(ratio) else f"{100 * ratio:.1f}"


def write_document(
    title: str, sections: Sequence[Section], out: pathlib.Path, name: str = "report"
) -> None:
    """Writes `report.html`, which holds its pictures, and `report.md`, which links to them.

    They may have another `name`. Templates escape all content of the sections for their format;
    both escape control characters.
    """
    for suffix, escape in ((".md", markdown), (".html", printable)):
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("rpn_jax.reports"),
            autoescape=suffix == ".html",
            finalize=functools.partial(_finalize, escape),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters |= {
            "data_uri": lambda file: _data_uri(out / file),
            "cell": lambda cell: cell if isinstance(cell, Cell) else Cell((cell,)),
            "printable": printable,
        }
        template = environment.get_template(f"report{suffix}.jinja")
        write_bytes(
            out / f"{name}{suffix}", template.render(title=title, sections=sections).encode()
        )


def _finalize(escape: Callable[[str], str], value: Any) -> Any:
    """Returns a template's value, escaped; the template's own text, marked safe, is unchanged."""
    return value if isinstance(value, markupsafe.Markup) else escape(str(value))


def _data_uri(path: pathlib.Path) -> str:
    content = base64.b64encode(regular(path).read_bytes()).decode()
    return f"data:{mimetypes.guess_type(path.name)[0]};base64,{content}"
