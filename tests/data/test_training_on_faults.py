"""Training from packed data on a disk that fails while it is read: `kdhpc train`, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.made import pack
from tests.data.trees import write_folder
from tests.faults import FaultyDisk

_WORDS = (
    *("--graph", "independent", "--nodes", "1", "--seeds", "0", "dataset=cifar10", "dataset.name=pets"),
    *("dataset.image_size=16", "network=resnet8", "network.crops=[3]", "training=short", "training.epochs=2"),
    *("training.milestones=[]", "training.batch_size=16", "device.threads=1", "device.mode=eager"),
)


@pytest.fixture
def data(disk: FaultyDisk, tmp_path: Path) -> Path:
    pack(write_folder(tmp_path / "source", train=20, test=8), disk.path / "data" / "pets")
    return disk.path / "data"


def _train(data: Path, runs: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kdhpc.cli.main", "train", *_WORDS],
        env={**os.environ, "KDHPC_DATA": str(data), "KDHPC_RUNS": str(runs)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_training_on_a_disk_that_fails_for_a_moment_gives_the_same_numbers(
    disk: FaultyDisk, data: Path, tmp_path: Path
) -> None:
    undisturbed = _train(data, tmp_path / "undisturbed")
    # The first read is of the header, when the file is opened. Nothing can be mapped here.
    disk.rules("open * direct=1", "read images.npy err=EIO 1 4", "read images.npy err=ESTALE 1 9")
    disturbed = _train(data, tmp_path / "disturbed")

    assert (undisturbed.returncode, disturbed.returncode) == (0, 0), disturbed.stderr
    assert disturbed.stdout == undisturbed.stdout
    weights = [next((tmp_path / runs).rglob("node1.safetensors")) for runs in ("undisturbed", "disturbed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_training_on_a_disk_that_goes_on_failing_ends_with_one_line_and_no_signal(
    disk: FaultyDisk, data: Path, tmp_path: Path
) -> None:
    disk.rules("open * direct=1", "read images.npy err=ESTALE -1 4")

    done = _train(data, tmp_path / "runs")

    path = data / "pets" / "train" / "images.npy"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        f"kdhpc: {path} cannot be read: Stale file handle",
    )
    assert "Traceback" not in done.stderr
