"""Printing lines, facts and tables: plain columns in a pipe; on a terminal fitted to its width, by rich; or Markdown.

What a pipe gets never changes with anybody's window: other programs read it.
"""

import sys
from collections.abc import Sequence
from typing import TextIO

from kdhpc.cli.parts import Fact, Part, Table
from kdhpc.printing import one_line

__all__ = ["Fact", "Part", "Table", "aligned", "markdown", "plain", "show"]


def show(*parts: Part, as_markdown: bool = False, stream: TextIO | None = None) -> None:
    """Print parts under each other.

    Args:
        parts: what to print.
        as_markdown: as GitHub's Markdown, wherever it goes.
        stream: where to; None: standard output.
    """
    out = sys.stdout if stream is None else stream
    if as_markdown:
        print(markdown(parts), file=out)
    elif out.isatty():
        # Only here: rich takes a while to import, and pipes do without it.
        from kdhpc.cli.terminal import print_parts

        print_parts(parts, out)
    else:
        print(plain(parts), file=out)


def plain(parts: Sequence[Part]) -> str:
    """As lines, none of which is broken."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Table):
            lines += aligned([part.head, *part.rows])
        else:
            lines.append(part.line if isinstance(part, Fact) else part)
    return "\n".join(lines)


def markdown(parts: Sequence[Part]) -> str:
    """As GitHub's Markdown, for a page or a notebook: each line a paragraph, each table one of Markdown's."""
    blocks: list[str] = []
    for part in parts:
        if isinstance(part, Table):
            rule = ["---", *["---:"] * (len(part.head) - 1)]
            blocks.append("\n".join(_markdown_row(row) for row in (part.head, rule, *part.rows)))
        elif part:
            blocks.append(part.line if isinstance(part, Fact) else part)
    return "\n\n".join(blocks)


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [one_line(cell).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows (the head first) with their columns under each other; what would break a line is written out."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
