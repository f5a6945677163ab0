"""What a benchmark found: a table for people, JSON for programs, and where it was measured."""

import io
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from kdhpc.files.writing import write_whole

_PACKAGES = ("torch", "torchvision", "numpy", "optuna", "sqlalchemy", "psycopg2-binary")

Cell = str | int | float | None
"""What a row may hold; None: not measured."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One benchmark's findings."""

    title: str
    """What was compared."""
    settings: dict[str, Cell]
    """What was held fixed."""
    rows: Sequence[dict[str, Cell]]
    """All with the same keys; a time's key ends in its unit."""
    notes: Sequence[str] = ()
    """What a reader must know to read the numbers."""
    rows_alone: bool = False
    """JSON is the list of rows: nothing about the machine matters to them."""


def machine() -> dict[str, Cell]:
    """The machine, its load of the last minute, and the versions of all that was measured."""
    versions = {name: found for name in _PACKAGES if (found := _version(name)) is not None}
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **versions,
    }


def show(report: Report, out: TextIO, *, style: str) -> None:
    """Print a report.

    Args:
        report: What was found.
        out: Where to.
        style: ``table`` (Markdown) or ``json``.
    """
    where = machine()
    if style == "json":
        document = {"title": report.title, "machine": where, "settings": report.settings, "rows": list(report.rows)}
        whole = document | {"notes": list(report.notes)}
        json.dump(document["rows"] if report.rows_alone else whole, out, indent=2)
        out.write("\n")
        return
    lines = [f"## {report.title}", "", _listed(where), _listed(report.settings), ""]
    if report.rows:
        columns = list(report.rows[0])
        lines += [_line(columns), _line(["---"] * len(columns))]
        lines += [_line([_shown(row[column]) for column in columns]) for row in report.rows]
    lines += ["", *report.notes]
    out.write("\n".join(lines).rstrip() + "\n")


def write(report: Report, path: Path) -> None:
    """Write a report as ``<path>.md`` and ``<path>.json``, over what is there."""
    for suffix, style in ((".md", "table"), (".json", "json")):
        text = io.StringIO()
        show(report, text, style=style)
        write_whole(path.with_suffix(suffix), text.getvalue())


def _version(name: str) -> str | None:
    """Of a package; none: it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _listed(values: dict[str, Cell]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in values.items())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "-" if value is None else str(value)
