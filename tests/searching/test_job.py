"""A job's signals, and how it comes back into the queue."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdhpc.cluster import requeue
from kdhpc.cluster.requeue import requeue_if_out_of_time
from kdhpc.cluster.signals import StopSignals
from tests.workspace import PATIENCE_S, until


@pytest.fixture(autouse=True)
def in_a_job(fake_slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "KDHPC_SLURM_JOB"):
        monkeypatch.setenv(name, "8")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr(requeue, "_TOGETHER_S", 0.05)
    monkeypatch.setattr(requeue, "_TERM_PATIENCE_S", 0.05)


def test_signal_is_told_by_whoever_reads_it_not_by_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    with StopSignals() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGUSR2)
        assert caplog.text == ""
        assert stop.requested
        assert stop.out_of_time
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        assert not stop.out_of_time
    assert caplog.messages == ["SIGUSR2: stopping after this step"]


def test_requeue_of_a_busy_controller_is_tried_again(fake_slurm, caplog: pytest.LogCaptureFixture) -> None:
    fake_slurm.answer("scontrol", "[ $N -ge 3 ] || { echo 'Socket timed out' >&2; exit 1; }")
    with StopSignals() as stop, caplog.at_level(logging.INFO):
        signal.raise_signal(signal.SIGUSR2)
        assert requeue_if_out_of_time(stop, is_ours=True)
    assert fake_slurm.calls("scontrol") == ["requeue 7_1"] * 3
    assert caplog.text.count("not requeued yet, trying again: `scontrol requeue 7_1` failed: Socket timed out") == 2


def test_requeue_that_ends_this_process_is_no_failure(fake_slurm) -> None:
    fake_slurm.answer("scontrol", "kill -TERM $PPID; exit 1")
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGUSR2)
        assert requeue_if_out_of_time(stop, is_ours=True)
    assert len(fake_slurm.calls("scontrol")) == 1


def test_requeue_that_is_refused_for_long_is_given_up(fake_slurm, monkeypatch, caplog) -> None:
    monkeypatch.setattr(requeue, "_REQUEUE_PATIENCE_S", 0.0)
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGUSR2)
        assert not requeue_if_out_of_time(stop, is_ours=True)
    assert "not requeued: `scontrol requeue 7_1` failed" in caplog.text


@pytest.mark.parametrize(
    "words", ["Only batch jobs are accepted or processed", "Requested operation is presently disabled"]
)
def test_requeue_of_a_job_that_never_is_requeued_is_tried_once(fake_slurm, caplog, words: str) -> None:
    fake_slurm.answer("scontrol", f"echo '{words} for job 7' >&2; exit 1")
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGUSR2)
        assert not requeue_if_out_of_time(stop, is_ours=True)
    assert len(fake_slurm.calls("scontrol")) == 1
    assert f"not requeued: `scontrol requeue 7_1` failed: {words}" in caplog.text


WORK = ("-c", "from kdhpc.searching.job import work; work('any', 'any.yaml')")
WORKER = ("-m", "kdhpc.cli.main", "worker", "--study", "any")


@pytest.mark.parametrize(
    ("command", "executor", "is_requeued", "code"),
    [
        (WORK, "slurm", True, 0),
        (WORK, "local", False, 0),
        ((*WORKER, "--requeue"), None, True, 0),
        (WORKER, None, False, 130),
    ],
)
def test_time_limit_while_the_database_is_away_requeues_a_job_of_kdhpc_and_no_other(
    fake_slurm, tmp_path: Path, command: tuple[str, ...], executor: str | None, is_requeued: bool, code: int
) -> None:
    fake_slurm.answer("scontrol", "kill -TERM $PPID")  # As Slurm, when it has requeued.
    environment = {**os.environ, "KDHPC_STORAGE": "postgresql://me@127.0.0.1:9/none", "KDHPC_RUNS": str(tmp_path)}
    if executor is not None:
        environment["SUBMITIT_EXECUTOR"] = executor
    log = tmp_path / "log"
    with log.open("w") as written:
        worker = subprocess.Popen([sys.executable, *command], stdout=written, stderr=written, env=environment)
    until(lambda: "is away" in log.read_text())
    worker.send_signal(signal.SIGUSR2)
    assert worker.wait(timeout=PATIENCE_S) == code
    assert fake_slurm.calls("scontrol") == ["requeue 7_1"] * is_requeued
    assert "stopped while the database was away" in log.read_text()
    assert ("job 7_1 is not requeued" in log.read_text()) != is_requeued
    assert "Traceback" not in log.read_text()


def test_requeue_is_only_for_a_time_limit(fake_slurm) -> None:
    for received in ((), (signal.SIGTERM,), (signal.SIGUSR2, signal.SIGTERM)):
        with StopSignals() as stop:
            for number in received:
                signal.raise_signal(number)
            assert not requeue_if_out_of_time(stop, is_ours=True)
    assert fake_slurm.calls("scontrol") == []
