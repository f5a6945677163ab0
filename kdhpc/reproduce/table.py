"""Our numbers beside the paper's."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError, nearest
from kdhpc.final.result import FinalResult, read_result
from kdhpc.final.summary import Spread, spread
from kdhpc.reproduce.plan import Cell, Plan

_HEAD = (
    "row",
    "column",
    "ours_mean",
    "ours_std",
    "seeds",
    "diverged",
    "paper_mean",
    "paper_std",
    "difference",
    "standard_error",
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A table as the paper printed it."""

    title: str
    """For people."""
    source: str
    """Where it stands."""
    num_seeds: int
    """Trainings behind each mean."""
    numbers: Mapping[tuple[str, str], Spread]
    """By row and column, in the paper's order."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of the table, ours and the paper's."""

    row: str
    """Its row."""
    column: str
    """Its column."""
    ours: Spread | None
    """None: it is not trained yet, or all seeds diverged."""
    num: int
    """Runs behind it."""
    num_diverged: int
    """Runs that diverged, and are not in it."""
    paper: Spread | None
    """None: the paper has no such number."""
    paper_num: int
    """Trainings behind that."""

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.ours is None or self.paper is None else self.ours.mean - self.paper.mean

    @property
    def standard_error(self) -> float | None:
        """Of the difference: sqrt(s1^2 / n1 + s2^2 / n2), of ours alone where the paper gives no deviation.

        None: ours is a single number.
        """
        if self.difference is None or self.ours is None or self.ours.std is None or self.paper is None:
            return None
        theirs = 0.0 if self.paper.std is None else self.paper.std**2 / self.paper_num
        return math.sqrt(self.ours.std**2 / self.num + theirs)


def read_published(table: str) -> Published:
    """The paper's numbers of a table.

    Raises:
        ConfigError: the paper has no such table.
    """
    document = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    if table not in document["tables"]:
        raise ConfigError(f"published: the paper has no numbers of {table!r}: {nearest(table, document['tables'])}")
    found = document["tables"][table]
    numbers = {
        (row, column): Spread(mean=number[0], std=number[1])
        if isinstance(number, list)
        else Spread(mean=number, std=None)
        for row, cells in found["rows"].items()
        for column, number in cells.items()
    }
    return Published(
        title=found["title"],
        source=f"{document['source']} {found['what']}.",
        num_seeds=document["num_seeds"],
        numbers=numbers,
    )


def entries_of(plan: Plan, folder: Path) -> tuple[Entry, ...]:
    """The numbers of a plan's table, as far as they are there, in the plan's order of rows.

    Args:
        plan: With cells.
        folder: Of the table: its reports lie there.

    Raises:
        DataError: a result cannot be read.
    """
    published = read_published(plan.published)
    sources: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        sources.setdefault((cell.row, cell.column), []).append(cell)
    order = {row: at for at, (row, _) in enumerate(dict.fromkeys(published.numbers))}
    keys = sorted(sources, key=lambda key: order.get(key[0], len(order)))
    return tuple(_entry(key, sources[key], published, folder) for key in keys)


def markdown(plan: Plan, entries: Sequence[Entry]) -> str:
    """The table for people: ours, the paper's, and the difference. The best of a column is bold."""
    published = read_published(plan.published)
    columns = list(dict.fromkeys(entry.column for entry in entries))
    rows = list(dict.fromkeys(entry.row for entry in entries))
    by_key = {(entry.row, entry.column): entry for entry in entries}
    decimals = 3 if columns == ["correlation"] else 2
    lines = [f"# {plan.title}", "", *_introduction(plan, published), ""]
    head = ["", *(f"{column}{what}" for column in columns for what in (", ours", ", paper", ", difference"))]
    lines += [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    best = {
        (column, whose): max(
            (value for row in rows if (value := _mean(by_key.get((row, column)), whose)) is not None), default=None
        )
        for column in columns
        for whose in ("ours", "paper")
    }
    for row in rows:
        cells = [row]
        for column in columns:
            entry = by_key.get((row, column))
            for whose in ("ours", "paper"):
                shown = _shown(None if entry is None else getattr(entry, whose), decimals)
                is_best = _mean(entry, whose) is not None and _mean(entry, whose) == best[column, whose]
                cells.append(f"**{shown}**" if is_best and len(rows) > 1 else shown)
            cells.append(_shown_difference(entry, decimals))
        lines.append(_line(cells))
    diverged = [f"{entry.row}: {entry.num_diverged}" for entry in entries if entry.num_diverged]
    if diverged:
        lines += ["", f"Runs that diverged, and are in no mean: {'; '.join(dict.fromkeys(diverged))}."]
    return "\n".join([*lines, ""])


def table_csv(entries: Sequence[Entry]) -> str:
    """A row for each number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEAD)
    for entry in entries:
        ours, paper = entry.ours, entry.paper
        numbers = (
            ours and ours.mean,
            ours and ours.std,
            entry.num,
            entry.num_diverged,
            paper and paper.mean,
            paper and paper.std,
            entry.difference,
            entry.standard_error,
        )
        writer.writerow((entry.row, entry.column, *("" if number is None else number for number in numbers)))
    return file.getvalue()


def _introduction(plan: Plan, published: Published) -> list[str]:
    lines = [
        f"Paper: {published.source}",
        "",
        "Mean ± standard deviation over trainings (ddof 1). Difference: ours less the paper's ± its standard error, "
        "which is of ours alone where the paper prints no deviation. Best of a column in bold, ours and the paper's "
        "apart. A dash: not trained, or a single number has no deviation.",
    ]
    if plan.scale == "miniature":
        lines += [
            "",
            f"**Miniature:** {plan.data_note}. Other images, small networks, few epochs: it shows that all of this "
            "works, and the difference to the paper says how far apart the two are, not how well the method does.",
        ]
    return lines


def _entry(key: tuple[str, str], cells: Sequence[Cell], published: Published, folder: Path) -> Entry:
    values, diverged = list[float](), 0
    for cell in cells:
        if cell.measure == "correlation":
            values += _correlation(folder / cell.source / "pairs.csv")
            continue
        for result in _results(cell):
            value = _value(cell.measure, result)
            if value is None:
                diverged += 1
            else:
                values.append(value)
    return Entry(
        row=key[0],
        column=key[1],
        ours=spread(values) if values else None,
        num=len(values),
        num_diverged=diverged,
        paper=published.numbers.get(key),
        paper_num=published.num_seeds,
    )


def _results(cell: Cell) -> list[FinalResult]:
    paths = (RunPaths.of(cell.source, seed).result for seed in cell.seeds)
    return [read_result(path) for path in paths if path.is_file()]


def _value(measure: str, result: FinalResult) -> float | None:
    if result.node_accuracies is None or result.ensemble_accuracy is None:
        return None
    if measure == "ensemble":
        return result.ensemble_accuracy
    return result.node_accuracies[0] if measure == "node1" else statistics.fmean(result.node_accuracies)


def _correlation(pairs: Path) -> list[float]:
    """Pearson's coefficient of the pairs of a report; none if there is no report, or it is not defined."""
    if not pairs.is_file():
        return []
    try:
        rows = list(csv.DictReader(pairs.read_text(encoding="utf-8").splitlines()))
        return [statistics.correlation([float(row["mutual_kl"]) for row in rows], [float(row["gain"]) for row in rows])]
    except statistics.StatisticsError:
        return []
    except (OSError, ValueError, KeyError) as exc:
        raise DataError(f"{pairs} is not what `kdhpc report pairs` writes ({exc}): remove it") from exc


def _mean(entry: Entry | None, whose: str) -> float | None:
    found = None if entry is None else entry.ours if whose == "ours" else entry.paper
    return None if found is None else found.mean


def _shown(number: Spread | None, decimals: int) -> str:
    if number is None:
        return "-"
    deviation = "" if number.std is None else f" ± {number.std:.{decimals}f}"
    return f"{number.mean:.{decimals}f}{deviation}"


def _shown_difference(entry: Entry | None, decimals: int) -> str:
    if entry is None or entry.difference is None:
        return "-"
    error = "" if entry.standard_error is None else f" ± {entry.standard_error:.{decimals}f}"
    return f"{entry.difference:+.{decimals}f}{error}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
