"""The live view fits its screen, however small that is and however many workers there are."""

import os
import re
from dataclasses import replace

import pytest

from kdhpc.cli.table import plain
from kdhpc.cli.terminal import Terminal
from kdhpc.cli.watch_view import Asides, View, fitted_parts, troubled_jobs, view_parts
from kdhpc.study.ranking import Estimate, Lead
from kdhpc.study.status import BestTrial, CrashedTrial, GivenStatus, RungStatus, StudyStatus, TrialCounts, WorkerStatus
from tests.cli.test_table import Window, modern_terminal, words_of

__all__ = ["modern_terminal"]

_VANISHED = "given up after 3 attempts, the last worker vanished without a word"


def status_of(num_workers: int) -> StudyStatus:
    """Every seventh worker is lost."""
    workers = tuple(
        WorkerStatus(
            host=f"node-{number}.cluster",
            pid=1000 + number,
            job=f"991_{number}",
            trial=number,
            lease_age_s=float(number % 50),
            lost=number % 7 == 3,
            mode="compile",
            data="resident",
            epoch=number % 300 + 1,
            images_per_s=1000.0,
        )
        for number in range(num_workers)
    )
    rungs = tuple(
        RungStatus(epoch=1 << bit, reached=6000 >> bit, survived=3000 >> bit, median=50.0 + bit) for bit in range(9)
    )
    once = Estimate(mean=70.0, error=None, seeds=1)
    dml = GivenStatus(name="dml", graph_key="0", result=once, open=0, failed=0, diverged=0)
    return StudyStatus(
        study="dogs4",
        target=6000,
        draining=False,
        precision="bf16",
        trials=TrialCounts(complete=100, pruned=2900, running=num_workers, waiting=2999 - num_workers, failed=1),
        best=BestTrial(number=17, value=72.5),
        rungs=rungs,
        workers=workers,
        crashes=(
            CrashedTrial(number=4, attempts=2, state="waiting", reason="OutOfMemoryError: 20 MiB (on n3)", job="991_3"),
            CrashedTrial(number=9, attempts=3, state="failed", reason=_VANISHED, job="991_77"),
        ),
        trials_per_hour=120.0,
        seconds_to_go=7200.0,
        hours_used=50.0,
        max_gpu_hours=200.0,
        given_trials=TrialCounts(complete=1, pruned=0, running=0, waiting=0, failed=0),
        given=(dml,),
        lead=(Lead(over="dml", points=2.5, error=None, is_confirmed=False),),
    )


def view_of(num_workers: int = 12, **asides: object) -> View:
    return View(status=status_of(num_workers), asides=Asides(**asides), read_at=0.0)


def screen(view: View, columns: int, lines: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a terminal of that size shows."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((columns, lines)))
    window = Window()
    terminal = Terminal(window)
    terminal.print(fitted_parts(view, lines, terminal.num_lines))
    return words_of(window.getvalue())


@pytest.mark.parametrize("num_workers", [0, 1, 12, 1000])
@pytest.mark.parametrize("size", [(80, 24), (40, 40), (132, 50), (200, 60)])
def test_view_fits_and_fills_its_screen(
    size: tuple[int, int], num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of(num_workers)
    lines = screen(view, *size, monkeypatch)
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]
    text = " ".join(" ".join(lines).split())
    for said in (
        "3001 of 6000",
        "120.0 trials per hour",
        "50.00 of 200 GPU hours spent",
        "72.50 % (trial 17)",
        "2.50 points above dml",
    ):
        assert said in text
    assert {"epoch", "median", "dml"} <= set(text.split())
    if num_workers == 1000:
        assert len(lines) > size[1] - 6, "as many workers as there is room for"
        assert "training 857 trials, 143 LOST, 857000 images/s" in text
        assert re.search(r"and \d+ trials more, \d+ of them LOST", text)


def test_view_of_a_tiny_window_shows_what_matters_first(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = screen(view_of(1000), 30, 8, monkeypatch)
    assert "study dogs4" in lines[0]
    assert max(map(len, lines)) <= 30


def test_view_names_lost_workers_first_then_those_that_were_silent_for_longest() -> None:
    workers = view_of(12).workers
    assert [worker.trial for worker in workers][:4] == [10, 3, 11, 9]
    gone = view_of(12, gone=frozenset({"991_5"})).workers
    assert [(worker.trial, worker.lost) for worker in gone][:4] == [(10, True), (5, True), (3, True), (11, False)]


def test_view_tells_the_last_words_of_workers_that_vanished_and_of_no_others() -> None:
    status = status_of(12)
    assert troubled_jobs(status, frozenset({"991_5"})) == ["991_3", "991_5", "991_10", "991_77"]
    words = {"991_3": "slurmstepd: error: oom_kill", "991_77": "CANCELLED DUE TO NODE FAILURE", "991_9": "fine"}
    rows = [
        " ".join(line.split()) for line in plain(view_parts(view_of(12, last_words=words), num_workers=5)).split("\n")
    ]
    assert "3 lost slurmstepd: error: oom_kill" in rows
    assert "4 waiting OutOfMemoryError: 20 MiB (on n3)" in rows
    assert f"9 failed {_VANISHED}: CANCELLED DUE TO NODE FAILURE" in rows
    assert not any("fine" in row for row in rows)


def test_view_estimates_hours_by_the_processes_that_work() -> None:
    view = view_of(12)
    # Ten processes that are not lost, for two hours.
    assert "50.00 of 200 GPU hours spent, about 20.00 to go\n" in plain(view_parts(view, num_workers=5))
    idle = replace(view, status=replace(view.status, workers=(), seconds_to_go=None))
    assert "hours    50.00 of 200 GPU hours spent\n" in plain(view_parts(idle, num_workers=5))


def test_view_says_what_is_not_known() -> None:
    view = replace(view_of(problem="squeue did not answer within 5 s"), away="since 12:00:00: it is gone")
    lines = plain(view_parts(view, num_workers=5)).splitlines()
    assert lines[1] == "AWAY     since 12:00:00: it is gone"
    assert "jobs     no jobs shown: squeue did not answer within 5 s" in lines
