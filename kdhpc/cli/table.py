"""Text tables."""

from collections.abc import Sequence

from kdhpc.printing import one_line


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows (the head first) with their columns under each other; what would break a line is written out."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
