"""The table of ``kdhpc results``: all columns where it is piped, on a terminal those that fit.

On a terminal, what all rows share is said once above the table. Where the others are too wide, columns are left out by
their ranks, and a line below names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdhpc.cli.parts import Part, Table
from kdhpc.config.networks import network_folder

if TYPE_CHECKING:
    from kdhpc.final.summary import Spread, Summary

_CERTAIN = 100
"""Longer names of networks are cut in the names of trainings."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table."""

    head: str
    """Its title."""
    cells: tuple[str, ...]
    """A cell for each row."""
    shared: str = ""
    """How to say a value that all rows share, with ``{}`` for it; empty: it is always a column."""
    rank: int = 0
    """Columns of the highest rank are left out first; 0: never."""


def columns_of(summaries: "Sequence[Summary]", measures: "Sequence[str]" = ()) -> list[Column]:
    """The columns. Data set, network and graph are among them if the name of a training does not say them.

    Args:
        summaries: The rows.
        measures: Names of measures that are the columns beside the training and its seeds; none: the usual columns,
            with the ensemble's NLL and ECE where a training has them.
    """
    return _chosen_columns(summaries, measures) if measures else _usual_columns(summaries)


def _chosen_columns(summaries: "Sequence[Summary]", measures: "Sequence[str]") -> list[Column]:
    """What was asked for: of what does not fit, the last is left out first."""
    columns = [
        _column("training", _names(summaries)),
        _column("seeds", [str(len(s.seeds)) for s in summaries], "seeds {}", len(measures) + 1),
    ]
    for rank, name in enumerate(measures):
        columns.append(_column(name, [shown_measure(name, s.measure(name)) for s in summaries], rank=rank))
    return [*columns, *_diverged_column(summaries)]


def _column(head: str, cells: list[str], shared: str = "", rank: int = 0) -> Column:
    return Column(head=head, cells=tuple(cells), shared=shared, rank=rank)


def _names(summaries: "Sequence[Summary]") -> list[str]:
    return [s.name if s.scored_on == "test" else f"{s.name} ({s.scored_on})" for s in summaries]


def _diverged_column(summaries: "Sequence[Summary]") -> list[Column]:
    diverged = any(s.diverged_seeds for s in summaries)
    return [_column("diverged", [str(len(s.diverged_seeds)) for s in summaries])] if diverged else []


def _usual_columns(summaries: "Sequence[Summary]") -> list[Column]:
    column = _column
    columns = [
        column("training", _names(summaries)),
        column("nodes", [str(s.num_nodes) for s in summaries], "{} nodes", 3),
        column("epochs", [str(s.epochs) for s in summaries], "{} epochs", 5),
        column("seeds", [str(len(s.seeds)) for s in summaries], "seeds {}", 4),
        column("node", [shown_measure("node", s.node) for s in summaries]),
        column("ensemble", [shown_measure("ensemble", s.ensemble) for s in summaries]),
        column("parameters", [f"{s.num_parameters:,}" for s in summaries], "{} parameters", 6),
    ]
    if any(s.measure("nll") for s in summaries):
        columns += [
            column(name, [shown_measure(name, s.measure(name)) for s in summaries], rank=rank)
            for name, rank in (("nll", 7), ("ece", 8))
        ]
    columns += _diverged_column(summaries)
    if not all(_says_all(s) for s in summaries):
        columns += [
            column("dataset", [s.dataset for s in summaries], "data set {}", 2),
            column("network", [s.network for s in summaries], "network {}", 2),
            column("graph", [s.graph for s in summaries], "graph {}", 1),
        ]
    return columns


def shown(columns: Sequence[Column]) -> list[Part]:
    """The table for a terminal, and above it what all rows share."""
    shared = [c for c in columns if c.shared and len(set(c.cells)) == 1]
    rest = [c for c in columns if c not in shared]
    spare = sorted((c for c in rest if c.rank), key=lambda c: -c.rank)
    table = Table(
        head=tuple(c.head for c in rest),
        rows=list(zip(*(c.cells for c in rest), strict=True)),
        spare=tuple(c.head for c in spare),
    )
    return [f"all: {', '.join(c.shared.format(c.cells[0]) for c in shared)}", "", table] if shared else [table]


def whole(columns: Sequence[Column]) -> Table:
    """All columns, for a pipe and for Markdown."""
    return Table(head=tuple(c.head for c in columns), rows=list(zip(*(c.cells for c in columns), strict=True)))


def _says_all(summary: "Summary") -> bool:
    """Whether the name of a training says data set, network and graph: it was not given by ``run.name``."""
    network = network_folder(summary.network)[:_CERTAIN]
    return summary.name.startswith(f"{summary.dataset}-{network}")


def shown_measure(name: str, spread: "Spread | None") -> str:
    """A mean and its standard deviation with as many decimals as say something; a dash: there is none."""
    from kdhpc.final.measures import decimals  # Not where a help page is shown.

    if spread is None:
        return "-"
    places = decimals(name)
    mean = f"{spread.mean:.{places}f}"
    return mean if spread.std is None else f"{mean} ± {spread.std:.{places}f}"
