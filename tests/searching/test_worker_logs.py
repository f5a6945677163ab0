"""The logs of workers: whose they are, what is about a trial, and following them."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdhpc.config.paths import StudyPaths
from kdhpc.errors import StorageError, UsageError
from kdhpc.searching import following
from kdhpc.searching.following import LogLine, LogReader, follow
from kdhpc.searching.worker_logs import TrialLines, logs_of_attempt, logs_of_worker, read_logs
from kdhpc.study.attempts import KnownWorker, TrialAttempt

_LOG = """\
submitit INFO (2026-11-29 11:00:00,000) - Starting with JobEnvironment(job_id=4242, hostname=node7)
2026-11-29 11:00:01,000 INFO device CPU, precision float32, mode auto
2026-11-29 11:00:02,000 INFO trial 1, slot 1, attempt 1: starts
2026-11-29 11:00:03,000 WARNING epoch 1 is not in metrics.jsonl
2026-11-29 11:00:04,000 INFO trial 1: pruned
2026-11-29 11:00:05,000 INFO published the compile cache
2026-11-29 11:00:06,000 INFO given trial 1, slot 0, attempt 1: starts
2026-11-29 11:00:07,000 INFO given trial 1: complete
2026-11-29 11:00:08,000 INFO trial 11, slot 11, attempt 1: starts
2026-11-29 11:00:09,000 ERROR trial 11 crashed
Traceback (most recent call last):
RuntimeError: of trial 11
2026-11-29 11:00:10,000 INFO trial 12, slot 12, attempt 1: starts
submitit INFO (2026-11-29 11:10:00,000) - Starting with JobEnvironment(job_id=4242, hostname=node8)
2026-11-29 11:10:01,000 INFO device CPU, precision float32, mode auto
"""


def write(launch: str, name: str, text: str = _LOG, *, age_s: float = 0.0) -> Path:
    path = StudyPaths.of("tiny").launch_jobs(launch) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def lines_about(number: int, text: str = _LOG) -> list[str]:
    lines = TrialLines(number)
    return [line.partition(",000 ")[2] or line for line in text.splitlines() if lines.takes(line)]


def test_lines_about_a_trial_are_those_between_its_start_and_its_end() -> None:
    assert lines_about(1) == [
        "INFO trial 1, slot 1, attempt 1: starts",
        "WARNING epoch 1 is not in metrics.jsonl",
        "INFO trial 1: pruned",
    ]
    assert lines_about(-1) == ["INFO given trial 1, slot 0, attempt 1: starts", "INFO given trial 1: complete"]
    assert lines_about(11)[1:] == [
        "ERROR trial 11 crashed",
        "Traceback (most recent call last):",
        "RuntimeError: of trial 11",
    ]
    # Its worker was killed: the next one's lines are not about it.
    assert lines_about(12) == ["INFO trial 12, slot 12, attempt 1: starts"]
    assert lines_about(2) == []


def test_lines_of_another_trial_beside_it_are_left_out() -> None:
    beside = """\
2026-11-29 11:00:02,000 INFO trial 1, slot 1, attempt 1: starts
2026-11-29 11:00:03,000 INFO trial 2, slot 2, attempt 1: starts
2026-11-29 11:00:04,000 ERROR trial 2 crashed
RuntimeError: of trial 2
2026-11-29 11:00:05,000 INFO trial 1: complete
"""
    assert lines_about(1, beside) == ["INFO trial 1, slot 1, attempt 1: starts", "INFO trial 1: complete"]


def test_logs_are_found_by_time_and_belong_to_jobs() -> None:
    assert read_logs("tiny") == ()
    old = write("launch1", "4242_0_log.out", age_s=5000)
    new = write("launch2", "4242_0_log.out", age_s=10)
    array = write("launch2", "17_3_0_log.out", age_s=100)
    write("launch2", "17_3_submission.sh")
    write("launch2", "17_3_0_result.pkl")
    logs = read_logs("tiny")
    assert [log.path for log in logs] == [old, array, new]
    attempt = TrialAttempt(
        host="node7", pid=1, job="local-4242", attempt=1, began=time.time() - 60, ended=None, how=None, reason=None
    )
    # The process id came again, with another launch.
    assert [log.path for log in logs_of_attempt(logs, attempt)] == [new]


def test_worker_is_named_by_its_job_or_its_process() -> None:
    write("launch1", "17_3_0_log.out")
    write("launch1", "18_0_log.out")
    logs = read_logs("tiny")
    workers = [
        KnownWorker(host="node7.site", pid=55, job="17_3@gpu", trials=(0,)),
        KnownWorker(host="node8", pid=56, job=None, trials=(1,)),
        KnownWorker(host="node8", pid=57, job="19", trials=(2,)),
    ]
    for name in ("17_3", "17_3@gpu", "node7.site:55", "node7:55", "55", "node7"):
        assert [log.job for log in logs_of_worker(logs, workers, name)] == ["17_3"], name
    # Of a worker that has trained nothing yet, or while the database is away.
    assert [log.job for log in logs_of_worker(logs, (), "18")] == ["18"]
    with pytest.raises(UsageError, match="no worker '17_4' is known: did you mean '17_3'"):
        logs_of_worker(logs, workers, "17_4")
    with pytest.raises(StorageError, match="started by hand"):
        logs_of_worker(logs, workers, "node8:56")
    with pytest.raises(StorageError, match=r"log of worker 19 \(node8:57\) is not there"):
        logs_of_worker(logs, workers, "19")


def test_reader_tells_of_a_log_that_it_cannot_read_once() -> None:
    write("launch1", "17_0_log.out")
    gone = read_logs("tiny")
    gone[0].path.unlink()
    gone[0].path.mkdir()
    told: list[str] = []
    reader = LogReader(trial=None, tell=told.append)
    assert reader.last_lines(gone, 5) == ()
    assert list(reader.new_lines(gone)) == []
    assert len(told) == 1
    assert "it is a folder and no regular file" in told[0]


def followed(
    reader: LogReader, is_over: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Thread, list[LogLine]]:
    monkeypatch.setattr(following, "_POLL_S", 0.02)
    monkeypatch.setattr(following, "_ASK_S", 0.05)
    shown: list[LogLine] = []
    thread = threading.Thread(target=follow, args=(reader, lambda: read_logs("tiny"), is_over, shown.append))
    thread.start()
    return thread, shown


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_following_takes_up_new_logs_and_ends_when_all_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    first = write("launch1", "17_0_log.out", "before\n")
    reader, over = LogReader(trial=None, tell=print), threading.Event()
    reader.last_lines(read_logs("tiny"), 0)
    thread, shown = followed(reader, over.is_set, monkeypatch)
    with first.open("a", encoding="utf-8") as log:
        log.write("one\n")
    wait_for(lambda: [line.text for line in shown] == ["one"])
    first.write_text("emptied\n", encoding="utf-8")
    wait_for(lambda: len(shown) == 2)
    other = write("launch2", "18_0_log.out", "elsewhere\nand no end")
    wait_for(lambda: len(shown) == 3)
    over.set()
    thread.join(60)
    assert not thread.is_alive()
    assert shown[1:] == [
        LogLine(path=first, text="emptied"),
        LogLine(path=other, text="elsewhere"),
        LogLine(path=other, text="and no end"),
    ]


def test_following_a_trial_goes_on_in_another_log(monkeypatch: pytest.MonkeyPatch) -> None:
    log = "2026-11-29 11:00:02,000 INFO trial {0}, slot {0}, attempt 1: starts\n"
    write("launch1", "17_0_log.out", log.format(1) + log.format(2))
    reader, over = LogReader(trial=1, tell=print), threading.Event()
    assert len(reader.last_lines(read_logs("tiny"), 5)) == 1
    thread, shown = followed(reader, over.is_set, monkeypatch)
    other = write("launch2", "18_0_log.out", log.format(3) + log.format(1))
    wait_for(lambda: len(shown) == 1)
    over.set()
    thread.join(60)
    assert [line.path for line in shown] == [other]
