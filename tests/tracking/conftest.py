"""A folder, runs in it, and trackers that a child process finds."""

import json
import os
from pathlib import Path

import pytest

from kdhpc.tracking.run import Point, TrackedRun

MODULES = Path(__file__).parent / "modules"


@pytest.fixture(autouse=True)
def own_trackers(monkeypatch):
    """Their folder is in PYTHONPATH, and nothing of whoever runs the tests decides where is tracked."""
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(MODULES), *([before] if before else [])]))
    monkeypatch.syspath_prepend(str(MODULES))
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(tmp_path):
    return TrackedRun(
        key="the study 3",
        group="mine",
        name="trial 3",
        record=tmp_path / "trials" / "3" / "tracked.json",
        events=tmp_path / "tracking" / "tensorboard" / "trial-3",
        folder=tmp_path / "tracking",
        store=tmp_path / "tracking" / "mlflow",
        config={"training.epochs": 4, "network.name": "resnet8", "study.gates": '["a|b"]'},
        own={"training.epochs": 4},
        graph='{"nodes": 2}\n',
        drawing="1 ─▶ 2",
        made_with={"kdhpc": "0.1", "device": "cpu"},
    )


def points(first, last):
    """Epochs with numbers, one of which is none."""
    return [
        Point(epoch=epoch, values={"accuracy/ensemble": 10.0 * epoch, "loss/mean": float("nan") if epoch == 3 else 0.5})
        for epoch in range(first, last + 1)
    ]


def kept(run):
    """What the fake trackers have kept, by kind."""
    return [json.loads(line) for line in (run.events / "kept.jsonl").read_text(encoding="utf-8").splitlines()]


def epochs(run):
    return [line["epoch"] for line in kept(run) if "epoch" in line]
