"""Tables of text."""

from collections.abc import Sequence

from rpn_jax.text import printable


def format_table(rows: Sequence[Sequence[object]], names: int = 1) -> str:
    """Returns lines with aligned columns, the first `names` to the left, the others to the right.

    A row of one cell is a heading: it may be wider than the column. Control characters in a cell
    are escaped.
    """
    texts = [[printable(cell) for cell in row] for row in rows]
    full = [row for row in texts if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)] or [0]
    lines = []
    for row in texts:
        cells = [
            cell.ljust(width) if place < names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
