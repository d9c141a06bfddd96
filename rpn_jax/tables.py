"""Tables of text."""

from collections.abc import Sequence

from rpn_jax.text import printable


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns lines with aligned columns, the first to the left, the others to the right.

    A row of one cell is a heading: it may be wider than the column. Control characters in a cell
    are escaped.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(w) for cell, w in zip(others, widths[1:], strict=False)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
