"""A folder with a tiny packed data set and a study for it, in which ``kdhpc`` runs as users run it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kdhpc.config.paths import StudyPaths
from kdhpc.server.address import EmbeddedAddress
from kdhpc.study.status import StudyStatus, read_status, study_names
from kdhpc.study.storage import Storage, never

PATIENCE_S = 900.0
"""For what takes seconds where nothing else runs: a busy machine is no failure."""

_STUDY = """\
# @package _global_
defaults:
  - override /dataset: fashion_mnist
  - override /network: resnet8
  - override /training: short
study:
  num_nodes: 2
  trials: 6
  baselines: []
dataset:
  name: tiny
  image_size: 16
  validation_fraction: 0.5
network:
  crops: [3]
training:
  epochs: 4
  batch_size: 16
device:
  threads: 1  # Other tests run beside it.
worker:
  rung_checkpoint_s: 0  # Whatever a test interrupts has a checkpoint.
"""


@dataclass(frozen=True, kw_only=True)
class Caught:
    """A worker's process, stopped in the middle of a trial that has a checkpoint."""

    pid: int
    job: str | None
    trial: int

    def let_go(self) -> None:
        """Go on, if something else has not brought it to an end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)


class Workspace:
    """Runs ``kdhpc`` in a folder of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self._started: list[subprocess.Popen[str]] = []
        self.environment = {
            **{name: value for name, value in environment.items() if not name.startswith("KDHPC_")},
            "KDHPC_RUNS": str(self.runs),
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
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert self.run("db", "stop").returncode == 0

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*argv)
        out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def status(self, study: str) -> dict:
        done = self.run("status", "--study", study, "--format", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def storage(self):
        storage = Storage(EmbeddedAddress(self.runs / "db"), patience_s=PATIENCE_S, should_stop=never)
        try:
            yield storage
        finally:
            storage.close()

    def read(self, study: str) -> StudyStatus:
        with self.storage() as storage:
            return read_status(storage, study)

    def paths(self, study: str) -> StudyPaths:
        return StudyPaths(self.runs / study)

    def catch(self, study: str, *, job: str | None = None, trials: int = 1) -> list[Caught]:
        """Wait for workers in the middle of trials, and stop the processes of so many where they stand.

        ``job`` is the number of theirs, whatever its cluster. They must write a checkpoint at every rung: a worker that
        a test starts by hand, not by `search` or `launch`, needs ``worker.rung_checkpoint_s=0``.
        So whatever a test does to them next happens to these trials, however slow the machine is. Their leases run on.
        """
        until(lambda: (self.runs / "db" / "endpoint.json").exists())
        with self.storage() as storage:
            until(lambda: study in study_names(storage))

            def found() -> list[Caught]:
                return [
                    Caught(pid=worker.pid, job=worker.job, trial=worker.trial)
                    for worker in read_status(storage, study).workers
                    if job in (None, (worker.job or "").partition("@")[0])
                    and not worker.lost
                    and self.paths(study).checkpoint(worker.trial).exists()
                ]

            def stopped() -> list[Caught]:
                caught = found()[:trials]
                if len(caught) < trials:
                    return []
                for worker in caught:
                    with contextlib.suppress(ProcessLookupError):  # It has ended meanwhile.
                        os.kill(worker.pid, signal.SIGSTOP)
                if all(is_stopped(worker.pid) for worker in caught) and set(caught) <= set(found()):
                    return caught
                for worker in caught:
                    worker.let_go()
                return []

            return until(stopped, every_s=0.1)


def is_stopped(pid: int) -> bool:
    """Whether a process stands still, a moment after it was told to."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for _ in range(50):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                # What it has sent to the database by then is done there, too.
                time.sleep(0.2)
                return True
            time.sleep(0.02)
    return False


def until(found: Callable[[], object], *, every_s: float = 0.5):
    """Wait for something true, and give it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := found()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s in vain"
        time.sleep(every_s)
    return result


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
