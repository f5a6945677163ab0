"""Two tables of a part's search, from what keep.py has kept: how far its graphs came, and what confirmation left.

python tables.py FOLDER     # docs/results/NAME

The tables of its trainings are those of `kdhpc results FOLDER`.
"""

import json
import sys
from pathlib import Path
from statistics import median

_NAMES = {"independent": "Independent", "dml": "DML"}


def rungs(folder: Path) -> str:
    """For each epoch that trials report at: how many came there, their median value, and the baselines' values."""
    reports = [trial["reports"] for trial in json.loads((folder / "trials.json").read_text())]
    given = {graph: _given(folder, graph) for graph in _baselines(folder)}
    epochs = sorted({epoch for values in reports for epoch in values}, key=int)
    rows = []
    for epoch in epochs:
        values = [each[epoch] for each in reports if epoch in each]
        beside = [f"{each[epoch]:.2f}" for each in given.values()]
        rows.append([epoch, str(len(values)), f"{median(values):.2f}", *beside])
    head = ["epoch", "graphs that came there", "median, %", *(f"{_NAMES.get(graph, graph)}, %" for graph in given)]
    return _markdown(head, rows)


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


def _baselines(folder: Path) -> dict[str, dict[str, float]]:
    """The result of each baseline that was trained beside the search, by its graph."""
    return {one["name"]: one["result"] for one in json.loads((folder / "status.json").read_text())["given"]}


def _given(folder: Path, graph: str) -> dict[str, float]:
    return json.loads((folder / f"given-{graph}.json").read_text())["reports"]


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(rungs(Path(sys.argv[1])), confirmations(Path(sys.argv[1])), sep="\n\n")
