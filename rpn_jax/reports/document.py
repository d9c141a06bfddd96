"""A report as its parts, and the two forms that it is written in: one HTML page, and Markdown."""

import base64
import html
import mimetypes
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jinja2

from rpn_jax.files import write_bytes


class Strong(str):
    """Text, or a cell of a table, that stands out."""


class Text(NamedTuple):
    """A paragraph."""

    text: str
    kind: str = "text"


class Code(NamedTuple):
    """Lines for a terminal."""

    text: str
    kind: str = "code"


class Table(NamedTuple):
    """Rows of cells below a header; the first `names` columns are words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    note: str = ""
    kind: str = "table"


class Picture(NamedTuple):
    """An image file, relative to the folder of the report, with what it shows."""

    file: str
    text: str
    has_caption: bool = False


class Pictures(NamedTuple):
    """Images side by side, as many as there is room for, or two of `are_wide`."""

    pictures: Sequence[Picture]
    are_wide: bool = False
    kind: str = "pictures"


class Fold(NamedTuple):
    """Parts that are shown when asked for."""

    title: str
    parts: Sequence[Text | Code | Table | Pictures]
    kind: str = "fold"


Part = Text | Code | Table | Pictures | Fold


class Section(NamedTuple):
    """Parts below a heading."""

    title: str
    parts: Sequence[Part]


def write_document(title: str, sections: Sequence[Section], out: pathlib.Path) -> None:
    """Writes `report.html`, which holds its pictures, and `report.md`, which links to them."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rpn_jax.reports"),
        autoescape=lambda name: name == "report.html.jinja",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["strong"] = lambda text: isinstance(text, Strong)
    environment.filters["data_uri"] = lambda file: _data_uri(out / file)
    environment.filters["cell"] = _markdown_cell
    for name in ("report.md", "report.html"):
        template = environment.get_template(f"{name}.jinja")
        write_bytes(out / name, template.render(title=title, sections=sections).encode())


def _data_uri(path: pathlib.Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:{mimetypes.guess_type(path.name)[0]};base64,{content}"


def _markdown_cell(text: str) -> str:
    """Returns text as a cell of a Markdown table has it, in one line."""
    escaped = html.escape(text, quote=False).replace("|", "\\|").replace("\n", "<br>")
    escaped = escaped.replace("_", "\\_").replace("*", "\\*")
    return f"**{escaped}**" if isinstance(text, Strong) else escaped
