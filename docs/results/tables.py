"""Tables of a part's search, from what keep.py has kept: how far graphs came, what early values tell of late ones, and
what confirmation left.

python tables.py FOLDER [TRIAL ...]     # docs/results/NAME; numbers of trials that get a column of their own

The tables of its trainings are those of `kdhpc results FOLDER`.
"""

import json
import sys
from pathlib import Path
from statistics import correlation, fmean, median

_NAMES = {"independent": "Independent", "dml": "DML"}


def rungs(folder: Path, trials: tuple[int, ...] = ()) -> str:
    """For each epoch that trials report at: how many came there, their median value, and that of some graphs."""
    reports, epochs = _reports(folder)
    shown = {f"trial {number}, %": reports[number] for number in trials}
    shown |= {f"{_NAMES.get(graph, graph)}, %": _given(folder, graph) for graph in _baselines(folder)}
    rows = []
    for epoch in epochs:
        values = [each[epoch] for each in reports if epoch in each]
        rows.append(
            [epoch, str(len(values)), f"{median(values):.2f}", *(_cell(each.get(epoch)) for each in shown.values())]
        )
    return _markdown(["epoch", "graphs that came there", "median, %", *shown], rows)


def correlations(folder: Path) -> str:
    """Spearman's rank correlation of values at each epoch with those at later ones, of the trials that came there."""
    reports, epochs = _reports(folder)
    rows = []
    for late in epochs[1:]:
        came = [each for each in reports if late in each]
        ends = _ranks([each[late] for each in came])
        found = [
            f"{correlation(_ranks([each[epoch] for each in came]), ends):.2f}" if int(epoch) < int(late) else ""
            for epoch in epochs[:-1]
        ]
        rows.append([late, str(len(came)), *found])
    return _markdown(
        ["correlation with epoch", "graphs that came there", *(f"of {epoch}" for epoch in epochs[:-1])], rows
    )


def confirmations(folder: Path) -> str:
    """The value of each confirmed graph in the search, and with new seeds; likewise of the baselines."""
    found = []
    for path in folder.glob("*-trial*.json"):
        graph = json.loads(path.read_text())["provenance"]
        found.append((graph["confirmed_mean"], graph["confirmed_error"], graph["value"], f"trial {graph['trial']}"))
    rows = [[name, value, mean, error] for mean, error, value, name in sorted(found, reverse=True)]
    for graph, result in _baselines(folder).items():
        *_, last = _given(folder, graph).values()
        rows.append([_NAMES.get(graph, graph), last, result["mean"], result["error"]])
    cells = [[name, f"{value:.2f}", f"{mean:.2f} ± {error:.2f}"] for name, value, mean, error in rows]
    return _markdown(["graph", "value in the search", "confirmed"], cells)


def _reports(folder: Path) -> tuple[list[dict[str, float]], list[str]]:
    """What each trial reported, by epoch, in the order of trials; and all epochs."""
    reports = [trial["reports"] for trial in json.loads((folder / "trials.json").read_text())]
    return reports, sorted({epoch for values in reports for epoch in values}, key=int)


def _ranks(values: list[float]) -> list[float]:
    """From 0; of equal values the mean of theirs."""
    ordered = sorted(values)
    return [fmean(rank for rank, other in enumerate(ordered) if other == value) for value in values]


def _baselines(folder: Path) -> dict[str, dict[str, float]]:
    """The result of each baseline that was trained beside the search, by its graph."""
    return {one["name"]: one["result"] for one in json.loads((folder / "status.json").read_text())["given"]}


def _given(folder: Path, graph: str) -> dict[str, float]:
    return json.loads((folder / f"given-{graph}.json").read_text())["reports"]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"  # A trial that had ended before.


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not all(word.isdigit() for word in sys.argv[2:]):
        sys.exit(__doc__)
    part = Path(sys.argv[1])
    try:
        last = len(_reports(part)[0]) - 1
    except (OSError, ValueError, KeyError, TypeError) as exc:
        sys.exit(f"{part / 'trials.json'} is not what keep.py has written: {exc}")
    if unknown := [word for word in sys.argv[2:] if int(word) > last]:
        sys.exit(f"{part} has trials 0 to {last}, not {unknown[0]}")
    print(rungs(part, tuple(map(int, sys.argv[2:]))), correlations(part), confirmations(part), sep="\n\n")
