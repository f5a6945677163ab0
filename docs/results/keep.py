"""Copies what a part of docs/results/part.sh has found to a folder that can be kept: some 100 KB.

python keep.py NAME OUT     # in the folder where part.sh ran, with its database running

Of the study: the reports of all trials (trials.json), status, the confirmed graphs and the best one's picture. Of the
trainings: each one's result.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from precision import FLOAT32
from samplers import trials


def keep(name: str, out: Path) -> None:
    """Copy; what is not there yet is left out."""
    runs = Path(os.environ.get("KDHPC_RUNS", "runs"))
    out.mkdir(parents=True, exist_ok=True)
    url = subprocess.run(["kdhpc", "db", "url"], check=True, capture_output=True, text=True).stdout.strip()
    found = [{key: _short(value) for key, value in trial.items()} for trial in trials(url, name)]
    (out / "trials.json").write_text(json.dumps(found, indent=None) + "\n")
    for path in [*(runs / name).glob("status.json"), *_graphs(runs / name / "all", name)]:
        shutil.copy(path, out)
    for path in sorted((runs / name / "unconfirmed").glob(f"{name}-best.json")):
        shutil.copy(path, out / "unconfirmed-best.json")
    parts = [path.parent.name for path in runs.glob("*/all")]
    for path in sorted((runs / "train").glob(f"*{name}-*/seed*/result.json")):
        training = path.parents[1].name
        if _part_of(training, parts) == name:
            shutil.copy(path, out / f"{training.replace(f'{name}-', '')}-{path.parent.name}.json")


def _part_of(training: str, parts: list[str]) -> str:
    """The part that a training is of: fashion-3-late-confirmed is not fashion-3's."""
    return max((part for part in parts if training.removeprefix(FLOAT32).startswith(f"{part}-")), key=len, default="")


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
