"""``kdhpc results --against``: trainings compared with one of them, in pairs of seeds."""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdhpc.cli.table import Part, Table, show
from kdhpc.files.json_text import strict_json

if TYPE_CHECKING:
    from kdhpc.final.comparison import Comparison, Difference
    from kdhpc.final.found import FoundResult

_USUAL = ("ensemble", "node")
_LESS_IS_BETTER = ("nll", "brier", "ece")
_COLUMNS = (
    *("training", "against", "measure", "pairs", "difference", "low", "high"),
    *("diverged_seeds", "against_diverged_seeds", "also_differs", "refused"),
)


def run(found: "Sequence[FoundResult]", against: str, measures: Sequence[str], form: str) -> int:
    """Compare, and print.

    Raises:
        KdhpcError: as `kdhpc.final.comparison.compare`.
    """
    from kdhpc.final.comparison import compare

    compared = compare(found, against, measures or _USUAL)
    if form == "json":
        print(strict_json([dataclasses.asdict(one) for one in compared], indent=2))
    elif form == "csv":
        _print_csv(compared)
    else:
        show(*_parts(compared), as_markdown=form == "markdown")
    return 0


def _parts(compared: "Sequence[Comparison]") -> list[Part]:
    parts: list[Part] = []
    done = [one for one in compared if not one.refused]
    for other in dict.fromkeys(one.against for one in done):
        parts += [f"against {other}", _table([one for one in done if one.against == other]), ""]
    names = tuple(done[0].differences)
    note = "mean of the differences over the seeds that both have [95 % interval, paired t-test]"
    if {*_USUAL} & {*names}:
        note += "; of accuracies in points"
    if less := [name for name in names if name.removeprefix("node_") in _LESS_IS_BETTER]:
        note += f"; of {', '.join(less)} less is better"
    return [*parts, note, *_notes(compared)]


def _table(compared: "Sequence[Comparison]") -> Table:
    """Those that are compared with the same training."""
    names = tuple(compared[0].differences)
    has_diverged = any(one.diverged_seeds or one.against_diverged_seeds for one in compared)
    rows = []
    for one in compared:
        pairs = max(len(each.pairs) for each in one.differences.values())
        cells = [_shown(name, each, pairs) for name, each in one.differences.items()]
        rows.append([one.training, str(pairs), *cells, *([_diverged(one)] if has_diverged else [])])
    head = ("training", "pairs", *names, *(["diverged"] if has_diverged else []))
    return Table(head=head, rows=rows, spare=tuple(reversed(names[1:])))


def _notes(compared: "Sequence[Comparison]") -> list[str]:
    """What a row does not say."""
    from kdhpc.final.comparison import told

    notes = []
    for one in compared:
        if one.refused:
            notes.append(f"not compared: {told(one)}")
            continue
        # A single network has no mutual KL: that its cell is a dash says nothing of seeds.
        most = max(len(each.pairs) for each in one.differences.values())
        if most < 2:
            have = "no seed" if most == 0 else "one seed"
            notes.append(f"{one.training} and {one.against} have {have} in common: an interval needs two or more")
        if one.diverged_seeds or one.against_diverged_seeds:
            seeds = [
                f"{name} seed {', '.join(map(str, seeds))}"
                for name, seeds in ((one.training, one.diverged_seeds), (one.against, one.against_diverged_seeds))
                if seeds
            ]
            notes.append(f"diverged, so in no pair: {'; '.join(seeds)}")
        if one.also_differs:
            notes.append(f"{one.training} has other settings as well: {'; '.join(one.also_differs)}")
    return list(dict.fromkeys(notes))


def _shown(name: str, difference: "Difference", pairs: int) -> str:
    from kdhpc.final.measures import decimals

    if difference.mean is None:
        return "-"
    places = decimals(name)
    mean = f"{difference.mean:+.{places}f}"
    few = "" if len(difference.pairs) == pairs else f" ({len(difference.pairs)} of {pairs})"
    if difference.low is None or difference.high is None:
        return f"{mean}{few}"
    return f"{mean} [{difference.low:+.{places}f}, {difference.high:+.{places}f}]{few}"


def _diverged(one: "Comparison") -> str:
    ours, theirs = len(one.diverged_seeds), len(one.against_diverged_seeds)
    return f"{ours} and {theirs}" if theirs else str(ours)


def _print_csv(compared: "Sequence[Comparison]") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in compared:
        rest = (_listed(one.diverged_seeds), _listed(one.against_diverged_seeds), "; ".join(one.also_differs))
        for name, each in one.differences.items() or [("", None)]:
            numbers = (None,) * 4 if each is None else (_listed(each.pairs), each.mean, each.low, each.high)
            writer.writerow([one.training, one.against, name, *numbers, *rest, one.refused])


def _listed(seeds: "Sequence[int]") -> str:
    return " ".join(map(str, seeds))
