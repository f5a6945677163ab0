"""A tiny packed data set, and a folder to train in, as a user has them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdhpc.config.compose import compose_train
from kdhpc.config.schema import TrainConfig
from tests.faults import FaultyDisk

_DATASET = """\
name: tiny
image_size: 16
augmentation: pad_crop
pad: 2
validation_fraction: 0.5
"""
_TRAINING = """\
epochs: 2
batch_size: 16
learning_rate: 0.05
milestones: []
"""
_NETWORK = """\
name: resnet8
crops: [3]
"""


class Place:
    """A folder with data and configs; ``runs`` is its own."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self._started: list[subprocess.Popen[str]] = []
        self.environment = {
            "KDHPC_RUNS": str(self.runs),
            "KDHPC_DATA": str(shared / "data"),
            "KDHPC_CONFIG_DIR": str(shared / "configs"),
        }

    def config(self, *overrides: str) -> TrainConfig:
        return compose_train(["dataset=tiny", "network=tiny", "training=tiny", "device.threads=1", *overrides])

    def start(self, *argv: str, **more: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "kdhpc.cli.main", *argv],
            cwd=self.folder,
            env={**os.environ, **self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, *argv: str, **more: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*argv, **more)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def close(self) -> None:
        """Stop what a failed test left running."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


TINY = ("dataset=tiny", "network=tiny", "training=tiny", "device.threads=1")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and configs of all tests here."""
    folder = tmp_path_factory.mktemp("shared")
    _write_images(folder / "images")
    for group, text in (("dataset", _DATASET), ("training", _TRAINING), ("network", _NETWORK)):
        (folder / "configs" / group).mkdir(parents=True)
        (folder / "configs" / group / "tiny.yaml").write_text(text)
    prepared = Place(folder, folder).run("data", "prepare", "folder", "images", "--name", "tiny", "--size", "16")
    assert prepared.returncode == 0, prepared.stderr
    return folder


@pytest.fixture
def place(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path, shared)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield place
    place.close()


@pytest.fixture(autouse=True)
def threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _write_images(folder: Path) -> None:
    """Two classes that differ in brightness: anything that learns tells them apart."""
    rng = np.random.default_rng(0)
    for half, count in (("train", 32), ("test", 20)):
        for label, mean in (("dark", 70), ("light", 180)):
            (folder / half / label).mkdir(parents=True)
            for index in range(count):
                pixels = rng.normal(mean, 40, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / half / label / f"{index}.png")


@pytest.fixture
def faulty(place: Place, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    """The disk that ``place`` writes its runs to, which fails on demand."""
    place.runs = disk.path
    place.environment["KDHPC_RUNS"] = str(disk.path)
    monkeypatch.setenv("KDHPC_RUNS", str(disk.path))
    return disk
