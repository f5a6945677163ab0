"""A folder with a tiny packed data set and a study for it, in which ``kdhpc`` runs as users run it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

_STUDY = """\
# @package _global_
defaults:
  - override /dataset: fashion_mnist
  - override /network: resnet8
  - override /training: short
study:
  num_nodes: 2
  trials: 6
dataset:
  name: tiny
  image_size: 16
  validation_fraction: 0.5
network:
  crops: [3]
training:
  epochs: 4
  batch_size: 16
"""


class Workspace:
    """Runs ``kdhpc`` in a folder of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []
        self.environment = {
            **{name: value for name, value in environment.items() if not name.startswith("KDHPC_")},
            "KDHPC_RUNS": str(folder / "runs"),
            "KDHPC_DATA": str(folder / "data"),
            "KDHPC_CONFIG_DIR": str(folder / "configs"),
        }

    def start(self, *argv: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "kdhpc.cli.main", *argv],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """Stop the server, and whatever a failed test left running: a search and its workers share a process group."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert self.run("db", "stop").returncode == 0

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*argv)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def status(self, study: str) -> dict:
        done = self.run("status", "--study", study, "--format", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def wait_for_training(self, study: str) -> list[dict]:
        """Until a worker has a trial with a checkpoint behind it."""
        for _ in range(240):
            workers = self.run("status", "--study", study, "--format", "json")
            if workers.returncode == 0:
                found = json.loads(workers.stdout)["workers"]
                if any(
                    (self.folder / "runs" / study / "trials" / str(w["trial"]) / "checkpoint.pt").exists()
                    for w in found
                ):
                    return found
            time.sleep(0.2)
        raise AssertionError(f"no checkpoint of {study} after a minute")


def make_workspace(folder: Path, environment: Mapping[str, str] = os.environ) -> Workspace:
    """A folder with the data set packed and the study's config written."""
    _write_images(folder / "images")
    (folder / "configs" / "study").mkdir(parents=True)
    (folder / "configs" / "study" / "tiny.yaml").write_text(_STUDY)
    workspace = Workspace(folder, environment)
    prepared = workspace.run("data", "prepare", "folder", "images", "--name", "tiny", "--size", "16")
    assert prepared.returncode == 0, prepared.stderr
    return workspace


def _write_images(folder: Path) -> None:
    """Two classes that differ in brightness: anything that learns tells them apart."""
    rng = np.random.default_rng(0)
    for half, count in (("train", 64), ("test", 8)):
        for label, mean in (("dark", 70), ("light", 180)):
            (folder / half / label).mkdir(parents=True)
            for index in range(count):
                pixels = rng.normal(mean, 40, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / half / label / f"{index}.png")
