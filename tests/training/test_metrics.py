"""What a training run leaves to read."""

import dataclasses
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kdhpc.training.loop import EpochReport
from kdhpc.training.metrics import MetricsLog, read_metrics


def report(epoch: int) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        step=10 * epoch,
        rung=False,
        train_losses=(0.5, 0.25),
        node_accuracies=None,
        ensemble_accuracy=None,
        seconds=1.5,
    )


def test_append_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, epoch=0).append(report(1))
    size = path.stat().st_size
    # A file's size is limited in a process of its own, in the middle of the second line.
    code = (
        "import sys; from pathlib import Path; from kdhpc.training.metrics import MetricsLog\n"
        "from tests.training.test_metrics import report\n"
        "log = MetricsLog(Path(sys.argv[1]), epoch=1)\n"
        "log.append(report(2))\n"
    )
    limited = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20)),
        check=True,
    )
    assert f"epoch 2 is not in {path}: [Errno 27] File too large" in limited.stderr
    assert path.stat().st_size == size
    MetricsLog(path, epoch=1).append(report(3))
    assert read_metrics(path) == (report(1), report(3))


@pytest.mark.parametrize("half", ["", '{"epoch": 3, "st'])
def test_log_resumed_drops_what_comes_after_the_checkpoint(half: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, epoch=0)
    log.append(report(1))
    log.append(report(2))
    path.write_text(path.read_text() + half)
    MetricsLog(path, epoch=1).append(report(2))
    assert read_metrics(path) == (report(1), report(2))


def test_metrics_of_two_writers_the_last_line_of_an_epoch_counts(tmp_path: Path) -> None:
    """A worker that was displaced appends until it finds out."""
    path = tmp_path / "metrics.jsonl"
    late, new = (MetricsLog(path, epoch=0) for _ in range(2))
    new.append(report(1))
    late.append(report(2))
    new.append(dataclasses.replace(report(2), seconds=9.0))
    late.append(report(1))
    assert read_metrics(path) == (report(1), dataclasses.replace(report(2), seconds=9.0))
    MetricsLog(path, epoch=2).append(report(3))
    assert len(path.read_text().splitlines()) == 3
