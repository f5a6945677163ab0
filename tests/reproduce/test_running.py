"""Steps as processes: what is skipped, what fails, what a signal does."""

import sys
from pathlib import Path

import pytest

from kdhpc.errors import DataError
from kdhpc.reproduce import running
from kdhpc.reproduce.plan import Report, Step
from kdhpc.reproduce.running import Surroundings, do_report, do_steps

running_step = running._Running
_GOOD = ("--version",)
_BAD = ("data", "check", "nothing")
_LOGS = """
import sys, time
log, name = sys.argv[1], sys.argv[-1]
for what in ("begins", "ends"):
    with open(log, "a") as out:
        print(name, what, file=out)
    time.sleep(0.5)
"""


def step(name: str, *commands: tuple[str, ...], needs: tuple[str, ...] = ()) -> Step:
    return Step(kind="train", name=name, data="pets", commands=commands, needs=tuple(("train", need) for need in needs))


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_step_that_fails_stops_only_what_needs_it(
    at_once: int, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path))
    steps = [
        step("bad", _BAD, ("never",)),
        step("needs bad", _GOOD, needs=("bad",)),
        step("needs that", _GOOD, needs=("needs bad",)),
        step("good", _GOOD, _GOOD),
        step("needs good", _GOOD, needs=("good",)),
    ]
    said: list[str] = []

    outcome = do_steps(steps, Surroundings(at_once=at_once, should_stop=lambda: False, say=said.append))

    assert outcome.failed == ["kdhpc data check nothing (exit code 1)"]
    assert outcome.left_out == ["needs bad", "needs that"]
    assert not outcome.stopped
    assert said.count("kdhpc --version") == 3


def test_after_a_signal_running_steps_are_ended_and_nothing_begins() -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    said: list[str] = []
    steps = [step("long", ("--help",), _GOOD), step("next", _GOOD)]

    outcome = do_steps(steps, Surroundings(at_once=1, should_stop=should_stop, say=said.append))

    assert outcome.stopped
    assert said == ["kdhpc --help"]


def test_lines_of_steps_beside_each_other_say_whose_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    steps = [step("first", _GOOD), step("second", _GOOD)]

    do_steps(steps, Surroundings(at_once=2, should_stop=lambda: False, say=lambda line: None))

    assert sorted(line.split(": ")[0] for line in capfd.readouterr().out.splitlines()) == ["first", "second"]


def test_a_step_by_itself_prints_as_its_command_does(capfd: pytest.CaptureFixture[str]) -> None:
    do_steps([step("first", _GOOD)], Surroundings(at_once=1, should_stop=lambda: False, say=lambda line: None))

    assert capfd.readouterr().out.startswith("kdhpc ")


def test_nothing_runs_beside_a_step_that_needs_the_machine(tmp_path: Path) -> None:
    # Each step writes when it begins and ends.
    log = tmp_path / "log"

    def logged(name: str, kind: str) -> Step:
        return Step(kind=kind, name=name, data="pets", commands=((name,),))

    steps = [logged("a", "train"), logged("search", "search"), logged("b", "train"), logged("c", "train")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(running, "child_python_words", lambda: [sys.executable, "-c", _LOGS, str(log)])
        do_steps(steps, Surroundings(at_once=3, alone=("search",), should_stop=lambda: False, say=lambda line: None))

    lines = log.read_text().splitlines()
    begun = lines.index("search begins")
    assert lines[begun + 1] == "search ends"
    assert lines[:begun] == ["a begins", "a ends"]
    assert sorted(lines[begun + 2 : begun + 4]) == ["b begins", "c begins"]


def test_step_whose_jobs_are_in_the_queue_begins_when_they_have_ended() -> None:
    looks = 0

    def is_held(held: Step) -> bool:
        nonlocal looks
        looks += held.name == "held"
        return held.name == "held" and looks < 3

    said: list[str] = []
    steps = [step("held", _BAD), step("free", _GOOD), step("needs held", _GOOD, needs=("held",))]
    around = Surroundings(at_once=1, is_held=is_held, should_stop=lambda: False, say=said.append)

    # Its jobs have done it: a step without seeds is done.
    assert do_steps(steps, around).failed == []
    assert said == ["held waits for jobs of that name that are in the queue already", *["kdhpc --version"] * 2]


def test_a_command_that_is_killed_has_failed_and_the_others_go_on() -> None:
    with pytest.MonkeyPatch.context() as patched:
        dies = "import os, sys; sys.argv[-1] == 'bad' and os.kill(os.getpid(), 9)"
        patched.setattr(running, "child_python_words", lambda: [sys.executable, "-c", dies])
        around = Surroundings(at_once=2, should_stop=lambda: False, say=lambda line: None)
        outcome = do_steps([step("a", ("bad",)), step("b", ("good",))], around)

    assert outcome.failed == ["kdhpc bad (killed by signal 9)"]
    assert not outcome.stopped


def test_an_error_leaves_no_command_behind() -> None:
    def tend() -> None:
        raise DataError("something")

    with pytest.MonkeyPatch.context() as patched:
        sleeps = "import time; time.sleep(600)"
        patched.setattr(running, "child_python_words", lambda: [sys.executable, "-c", sleeps])
        patched.setattr(running, "_TEND_S", 0.0)
        begun: list[running._Running] = []
        patched.setattr(running, "_Running", lambda *given: begun.append(running_step(*given)) or begun[-1])
        with pytest.raises(DataError):
            do_steps(
                [step("a", ("long",))],
                Surroundings(at_once=1, tend=tend, should_stop=lambda: False, say=lambda line: None),
            )
    (one,) = begun
    assert one._command.process.wait(60) == -15


def test_a_signal_ends_a_report(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(running, "child_python_words", lambda: [sys.executable, "-c", "import time; time.sleep(600)"])
        report = Report(words=("graph",), folder="", needs=())
        assert do_report(report, tmp_path, should_stop=lambda: True, say=lambda line: None) == -15
