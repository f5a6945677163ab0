"""What commands print: lines, facts and tables. Plain columns in a pipe; on a terminal fitted to its width, by rich.

What a pipe gets never changes with anybody's window: other programs read it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO, TypeAlias

from kdhpc.printing import one_line

_LABEL = 8


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a head."""

    head: tuple[str, ...]
    """Names of the columns, each another one."""
    rows: Sequence[Sequence[str]]
    """Each with a cell for every column."""
    wraps: tuple[str, ...] = ()
    """Columns of sentences: a narrow terminal breaks them between words."""
    spare: tuple[str, ...] = ()
    """Columns that a narrow terminal leaves out, the first one first; it says which."""
    alarming: frozenset[int] = frozenset()
    """Rows, from 0, that a terminal shows in red."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A label, and what there is to say about it."""

    label: str
    """One word."""
    text: str
    """Any length; a narrow terminal breaks it between words."""

    @property
    def line(self) -> str:
        """Both, in one line."""
        return f"{self.label:<{_LABEL}} {self.text}"


Part: TypeAlias = "str | Fact | Table"
"""Something to print: a line, a fact, a table. An empty line is an empty string."""


def show(*parts: Part, stream: TextIO | None = None) -> None:
    """Print parts under each other.

    Args:
        parts: what to print.
        stream: where to; None: standard output.
    """
    out = sys.stdout if stream is None else stream
    if out.isatty():
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


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows (the head first) with their columns under each other; what would break a line is written out."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
