"""What commands print: lines, facts and tables, before anybody knows where they go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
    alarming: bool = False
    """A terminal shows it in red."""

    @property
    def line(self) -> str:
        """Both, in one line."""
        return f"{self.label:<{_LABEL}} {self.text}"


Part: TypeAlias = "str | Fact | Table"
"""Something to print: a line, a fact, a table. An empty line is an empty string."""
