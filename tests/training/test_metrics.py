"""What a training run leaves to read."""

import dataclasses
import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kdhpc.training.loop import EpochReport
from kdhpc.training.metrics import MetricsLog, read_metrics
from tests.faults import FaultyDisk


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
    # A file's size is limited in a process of its own, in the middle of the second line. It must not write bytecode
    # (-B): Python would keep what it could write of it, and fail ever after.
    code = (
        "import sys; from pathlib import Path; from kdhpc.training.metrics import MetricsLog\n"
        "from tests.training.test_metrics import report\n"
        "log = MetricsLog(Path(sys.argv[1]), epoch=1)\n"
        "log.append(report(2))\n"
    )
    limited = subprocess.run(
        [sys.executable, "-B", "-c", code, str(path)],
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


def line(**changes: object) -> bytes:
    return json.dumps({**dataclasses.asdict(report(2)), **changes}).encode()


@pytest.mark.parametrize(
    "unreadable",
    [
        bytes(512),
        line()[:40],
        line().replace(b"1.5", b"NaN"),
        line(seconds=None),
        line(epoch=0),
        line(epoch="2"),
        line(train_losses="abc"),
        line(train_losses=[10**400]),
        line()[:-1] + b', "\xff": 1}',
        b"{}",
        b"17",
        b"[1, 2]",
        b"[" * 100_000,
        b"Traceback (most recent call last):",
    ],
)
def test_unreadable_lines_are_cut_out_and_told_once(tmp_path: Path, unreadable: bytes, caplog) -> None:
    """As a power cut leaves them, or another program."""
    path = tmp_path / "metrics.jsonl"
    first, third = (json.dumps(dataclasses.asdict(report(epoch))).encode() for epoch in (1, 3))
    path.write_bytes(b"\n".join([first, unreadable, third, unreadable]))
    assert read_metrics(path) == (report(1), report(3))
    assert caplog.text == ""
    log = MetricsLog(path, epoch=3)
    assert caplog.messages == [f"{path}: cut out what cannot be read, 2 line(s)"]
    log.append(report(4))
    assert path.read_bytes().splitlines()[:2] == [first, third]
    assert read_metrics(path) == (report(1), report(3), report(4))
    MetricsLog(path, epoch=4)
    assert len(caplog.messages) == 1


def test_file_without_a_readable_line_is_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(bytes(4096))
    assert read_metrics(path) == read_metrics(tmp_path / "none") == ()
    MetricsLog(path, epoch=2).append(report(3))
    assert read_metrics(path) == (report(3),)


def test_numbers_that_are_none_are_null_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    diverged = dataclasses.replace(report(1), train_losses=(math.nan, 0.5), diverged="the loss of node 1 is not finite")
    MetricsLog(path, epoch=0).append(diverged)
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert document["train_losses"] == [None, 0.5]
    (found,) = read_metrics(path)
    assert math.isnan(found.train_losses[0])
    assert dataclasses.replace(found, train_losses=()) == dataclasses.replace(diverged, train_losses=())


def test_whole_numbers_and_lines_of_an_older_kdhpc_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    document = json.loads(line(seconds=2, ensemble_accuracy=90, node_accuracies=[90, 80]))
    del document["diverged"]
    path.write_text(json.dumps(document))
    (found,) = read_metrics(path)
    assert (found.seconds, found.ensemble_accuracy, found.node_accuracies) == (2.0, 90.0, (90.0, 80.0))
    assert found.diverged is None


def test_log_that_cannot_be_opened_is_told_once_and_opened_later(disk: FaultyDisk, caplog) -> None:
    """``chmod a-w``, or a full disk."""
    path = disk.path / "trials" / "0" / "metrics.jsonl"
    disk.rules("mkdir,create,openw * err=ENOSPC")
    log = MetricsLog(path, epoch=0)
    log.append(report(1))
    log.append(report(2))
    (message,) = caplog.messages
    assert message == f"epochs are not logged while this lasts: {path} cannot be written: No space left on device"
    disk.rules()
    log.append(report(3))
    assert read_metrics(path) == (report(3),)


def test_log_that_cannot_be_read_costs_nothing(disk: FaultyDisk, caplog) -> None:
    path = disk.path / "metrics.jsonl"
    MetricsLog(path, epoch=0).append(report(1))
    disk.rules("open metrics err=EACCES")
    MetricsLog(path, epoch=1).append(report(2))
    assert read_metrics(path) == ()
    told = f"{path} cannot be read: Permission denied"
    assert caplog.messages == [f"epochs are not logged while this lasts: {told}", f"metrics are left out: {told}"]
    disk.rules()
    assert read_metrics(path) == (report(1),)


def test_folder_in_place_of_the_log_costs_nothing(tmp_path: Path, caplog) -> None:
    MetricsLog(tmp_path, epoch=0).append(report(1))
    assert read_metrics(tmp_path) == ()
    assert "epochs are not logged while this lasts" in caplog.text


def test_bytes_that_a_full_quota_lost_do_not_spoil_the_next_line(disk: FaultyDisk, caplog) -> None:
    """NFS says it at close, and what was written is NUL bytes."""
    path = disk.path / "metrics.jsonl"
    log = MetricsLog(path, epoch=0)
    log.append(report(1))
    disk.rules("write,flush metrics late=EDQUOT")
    log.append(report(2))
    disk.rules()
    log.append(report(3))
    assert f"epoch 2 is not in {path}: [Errno 122] Disk quota exceeded" in caplog.text
    assert read_metrics(path) == (report(1), report(3))


def test_log_whose_rest_is_all_right_is_not_written_again(disk: FaultyDisk, caplog) -> None:
    path = disk.path / "metrics.jsonl"
    log = MetricsLog(path, epoch=0)
    log.append(report(1))
    disk.rules("create,rename * err=ENOSPC")
    MetricsLog(path, epoch=1).append(report(2))
    assert read_metrics(path) == (report(1), report(2))
    assert caplog.text == ""
