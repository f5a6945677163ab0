"""Steps as processes: what is skipped, what fails, what a signal does."""

import pytest

from kdhpc.reproduce.plan import Step
from kdhpc.reproduce.running import do_steps

_GOOD = ("--version",)
_BAD = ("data", "check", "nothing")


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

    outcome = do_steps(steps, at_once=at_once, should_stop=lambda: False, say=said.append)

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

    outcome = do_steps(steps, at_once=1, should_stop=should_stop, say=said.append)

    assert outcome.stopped
    assert said == ["kdhpc --help"]
