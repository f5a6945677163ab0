"""Copies what a part of docs/results/part.sh has found to a folder that can be kept: some 100 KB.

python keep.py NAME OUT     # in the folder where part.sh ran, with its database running

NAME may also be pilot, or precision: what precision.sh trained of all parts.

Of the study: the reports of all trials (trials.json) and of the baselines beside them (given-GRAPH.json), status, the
confirmed graphs and the best one's picture. Of the trainings: each one's result, in folders from which
`kdhpc results` makes its tables, and the losses of their last epochs (losses.json).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from precision import PREFIX
from samplers import trials

RUNS = Path(os.environ.get("KDHPC_RUNS", "runs"))


def keep(name: str, out: Path) -> None:
    """Copy, once part.sh has come to its trainings; of these, those that are done."""
    out.mkdir(parents=True, exist_ok=True)
    if (RUNS / name / "all").is_dir():
        _keep_study(name, out)
    losses = {}
    for folder in _trainings(name):
        training = folder.relative_to(RUNS / "train")
        (out / training).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "result.json", out / training)
        *_, last = _epochs(folder / "metrics.jsonl")
        losses[str(training)] = [_short(loss) for loss in last["train_losses"]]
    (out / "losses.json").write_text(json.dumps(losses, indent=0) + "\n")


def _keep_study(name: str, out: Path) -> None:
    url = subprocess.run(["kdhpc", "db", "url"], check=True, capture_output=True, text=True).stdout.strip()
    found = [{key: _short(value) for key, value in trial.items()} for trial in trials(url, name)]
    (out / "trials.json").write_text(json.dumps(found, indent=None) + "\n")
    for path in [RUNS / name / "status.json", *_graphs(RUNS / name / "all", name)]:
        shutil.copy(path, out)
    shutil.copy(RUNS / name / "unconfirmed" / f"{name}-best.json", out / "unconfirmed-best.json")
    # The first ones that were given are the study's baselines, in their order.
    given = json.loads((out / "status.json").read_text())["given"]
    for number, graph in enumerate((one["name"] for one in given), start=1):
        epochs = _epochs(RUNS / name / "given" / str(number) / "metrics.jsonl")
        reports = {epoch["epoch"]: _short(epoch["ensemble_accuracy"]) for epoch in epochs if epoch["rung"]}
        (out / f"given-{graph}.json").write_text(json.dumps({"graph": graph, "reports": reports}, indent=0) + "\n")


def _trainings(name: str) -> Iterator[Path]:
    """The folders of the part's trainings: fashion-3-late-confirmed is not fashion-3's."""
    parts = [name, *(path.parent.name for path in RUNS.glob("*/all"))]
    for path in sorted((RUNS / "train").glob("*/seed*/result.json")):
        training = path.parents[1].name
        part = max((part for part in parts if training.startswith(f"{part}-")), key=len, default="")
        if name == ("precision" if PREFIX.match(training) else part):
            yield path.parent


def _epochs(path: Path) -> Iterator[dict[str, object]]:
    return map(json.loads, path.read_text().splitlines())


def _graphs(folder: Path, name: str) -> list[Path]:
    """The table of all graphs, the best one and its picture, and those that were confirmed."""
    confirmed = [
        path for path in folder.glob("*-trial*.json") if "confirmed_mean" in json.loads(path.read_text())["provenance"]
    ]
    best = [path for path in folder.glob(f"{name}-best.*") if path.suffix != ".svg"]
    return sorted([*best, *confirmed])


def _short(value: object) -> object:
    """Numbers to three places, also in a mapping."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    keep(sys.argv[1], Path(sys.argv[2]))
