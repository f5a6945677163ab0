"""A terminal: how wide it is, what it can show, and how lines, facts and tables are fitted to it, by rich."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO, cast

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from kdhpc.cli.parts import Fact, Part, Table
from kdhpc.printing import has_unicode, one_line, printable, terminal_of

_GAP = 2
_SENTENCE = 24
"""A column of sentences is at least so wide, if any of its cells is."""
_ASCII = str.maketrans({"±": "+-", "…": "...", "–": "-", "—": "-", "×": "x", "→": "->"})


class Terminal:
    """What a stream leads to.

    Args:
        stream: A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = terminal_of(stream)
        self.has_unicode = has_unicode(getattr(stream, "encoding", None), os.environ)
        """Whether it can be given more than ASCII."""
        self.can_redraw = os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        """Whether its cursor can be moved."""
        file = self._stream if self.has_unicode else cast(TextIO, _Ascii(self._stream))
        # Decided here and not by rich, which would go by FORCE_COLOR in a pipe.
        self.console = Console(file=file, force_terminal=True, markup=False, highlight=False, emoji=False)
        """Rich's."""
        self.measure()

    def measure(self) -> tuple[int, int]:
        """Ask for its width and height, in characters, which may have changed; from then on they are used."""
        size = shutil.get_terminal_size()
        self.console.size = size
        return size.columns, size.lines

    def num_lines(self, parts: Sequence[Part]) -> int:
        """Lines that parts take."""
        return len(self.console.render_lines(self.drawn(parts), self.console.options.update(height=None)))

    def print(self, parts: Sequence[Part]) -> None:
        """Print parts under each other."""
        self.console.print(self.drawn(parts))

    def drawn(self, parts: Sequence[Part]) -> RenderableType:
        """What rich prints for parts, as wide as the terminal was when it was last measured."""
        width = self.console.width
        return Group(*(self._drawn(part, width) for part in parts))

    def _drawn(self, part: Part, width: int) -> RenderableType:
        if isinstance(part, Table):
            return _fitted(self._shown(part), width)
        if isinstance(part, Fact):
            label, text = self.words(part.label), self.words(part.text)
            start = len(Fact(label=label, text="").line)
            return _pair(label, text, min(start, width // 2), "red" if part.alarming else "")
        return Text(self.words(part), overflow="fold")

    def words(self, text: str) -> str:
        """The text in characters that this terminal can show."""
        return printable(text if self.has_unicode else in_ascii(text))

    def _shown(self, table: Table) -> Table:
        def cells(row: Sequence[str]) -> tuple[str, ...]:
            return tuple(one_line(cell if self.has_unicode else in_ascii(cell)) for cell in row)

        return Table(
            head=table.head,
            rows=[cells(row) for row in table.rows],
            wraps=table.wraps,
            spare=table.spare,
            alarming=table.alarming,
        )


def print_parts(parts: Sequence[Part], stream: TextIO) -> None:
    """Print parts to a terminal."""
    Terminal(stream).print(parts)


def in_ascii(text: str) -> str:
    """The text in ASCII: signs that have a spelling by it, others written out."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


class _Ascii:
    """A stream that rich takes for one that knows ASCII alone."""

    encoding = "ascii"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        # One sign for one sign: rich has counted them, and shortens by an ellipsis.
        return self._stream.write(text.replace("…", ".").encode("ascii", "replace").decode("ascii"))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class _Column:
    name: str
    natural: int
    """Width of its widest cell."""
    least: int
    """Width that it needs."""


def _fitted(table: Table, width: int) -> RenderableType:
    """The table in so many characters: with all columns, without spare ones, or with a line for each cell."""
    columns = {name: _column(table, index) for index, name in enumerate(table.head)}
    left_out: list[str] = []
    for name in table.spare:
        if _total([column.least for column in columns.values()]) <= width:
            break
        del columns[name]
        left_out.append(name)
    widths = {name: column.least for name, column in columns.items()}
    if _total(list(widths.values())) > width:
        drawn: list[RenderableType] = [_listed(table, tuple(columns), width)]
    else:
        for name in table.wraps:
            if name in columns:
                widths[name] = min(columns[name].natural, width - _total(list(widths.values())) + widths[name])
        drawn = [_grid(table, widths)]
    if left_out:
        drawn.append(Text(f"(narrow window, so without {', '.join(left_out)})", style="dim"))
    return Group(*drawn)


def _column(table: Table, index: int) -> _Column:
    name = table.head[index]
    cells = [name, *(row[index] for row in table.rows)]
    natural = max(cell_len(cell) for cell in cells)
    if name not in table.wraps:
        return _Column(name=name, natural=natural, least=natural)
    longest = max(cell_len(word) for cell in cells for word in cell.split(" "))
    return _Column(name=name, natural=natural, least=min(natural, max(longest, _SENTENCE)))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _grid(table: Table, widths: Mapping[str, int]) -> Grid:
    grid = Grid(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for name, width in widths.items():
        grid.add_column(name, width=width, overflow="fold")
    indices = [table.head.index(name) for name in widths]
    for number, row in enumerate(table.rows):
        style = "red" if number in table.alarming else ""
        grid.add_row(*(Text(row[index], style=style, overflow="fold") for index in indices))
    return grid


def _listed(table: Table, names: Sequence[str], width: int) -> RenderableType:
    """A line for each cell, with the column's name before it; rows stand apart."""
    start = min(max(cell_len(name) for name in names) + _GAP, width // 2)
    drawn: list[RenderableType] = []
    for number, row in enumerate(table.rows):
        drawn += [Text()] if drawn else []
        style = "red" if number in table.alarming else ""
        drawn += [_pair(name, row[table.head.index(name)], start, style) for name in names]
    return Group(*drawn)


def _pair(label: str, text: str, start: int, style: str = "") -> Grid:
    """A bold label, and a text that begins in this column in each of its lines."""
    grid = Grid.grid()
    grid.add_column(width=start, overflow="fold")
    grid.add_column(overflow="fold")
    grid.add_row(Text(label, style="bold"), Text(text, style=style, overflow="fold"))
    return grid
