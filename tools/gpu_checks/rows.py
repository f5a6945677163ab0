"""What the checks found: a row each, printed and written as soon as it is known."""

import dataclasses
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdhpc.files.writing import write_whole

Cell = str | int | float | None
"""What a number's place may hold; None: not measured."""
Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One check."""

    part: str
    """``correctness``, ``speed`` or ``whole``."""
    check: str
    """Its name."""
    outcome: Outcome
    """What came of it."""
    detail: str = ""
    """What differed, or why it was not run; for a check that passed, what else should be known."""
    seconds: float = 0.0
    """How long it took."""
    numbers: dict[str, Cell] = field(default_factory=dict)
    """What it measured; a time's name ends in its unit."""

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {_shown(value)}" for name, value in self.numbers.items() if value is not None)
        rest = "; ".join(words for words in (numbers, self.detail) if words)
        return f"{self.outcome:<8}{self.part}: {self.check} ({self.seconds:.1f} s){': ' + rest if rest else ''}"


class Results:
    """All rows, kept in ``gpu_check.json`` and ``gpu_check.md``, which are whole after each row.

    Args:
        folder: Where the files are written.
        settings: What was asked for.
    """

    def __init__(self, folder: Path, settings: dict[str, Cell]) -> None:
        self.rows: list[Row] = []
        self.machine: dict[str, Cell] = {"python": platform.python_version()}
        """The card and the versions of what was checked, as far as known."""
        self._folder = folder
        self._settings = settings

    def add(self, row: Row) -> None:
        """Print and write a row."""
        self.rows.append(row)
        print(row, flush=True)
        self.write()

    def write(self) -> None:
        """Write all that is known."""
        self._folder.mkdir(parents=True, exist_ok=True)
        document = {
            "machine": self.machine,
            "settings": self._settings,
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }
        write_whole(self._folder / "gpu_check.json", json.dumps(document, indent=2, allow_nan=False) + "\n")
        write_whole(self._folder / "gpu_check.md", self._table())

    def _table(self) -> str:
        counts = [f"{sum(row.outcome == outcome for row in self.rows)} {outcome}" for outcome in
                  ("passed", "failed", "not run")]  # fmt: skip
        lines = ["# tools/gpu_check", "", _listed(self.machine), _listed(self._settings), "", ", ".join(counts)]
        for part in dict.fromkeys(row.part for row in self.rows):
            rows = [row for row in self.rows if row.part == part]
            names = list(dict.fromkeys(name for row in rows for name in row.numbers))
            columns = ["check", "outcome", "seconds", *names, "detail"]
            lines += ["", f"## {part}", "", _line(columns), _line(["---"] * len(columns))]
            for row in rows:
                numbers = [_shown(row.numbers.get(name)) for name in names]
                lines.append(_line([row.check, row.outcome, f"{row.seconds:.1f}", *numbers, row.detail]))
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _listed(values: dict[str, Cell]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in values.items())


def _shown(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "-" if value is None else str(value)
