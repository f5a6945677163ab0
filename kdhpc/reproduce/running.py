"""Doing the steps of a plan, by the commands that are there, each as a process of its own."""

import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.interpreter import child_python_words
from kdhpc.reproduce.plan import Plan, Report, Step

_STOPPED = 130
_LOOK_S = 0.2

Say = Callable[[str], None]
"""Tells people what happens."""


@dataclass
class Outcome:
    """What became of a plan."""

    failed: list[str] = field(default_factory=list)
    """Commands that failed, in words."""
    left_out: list[str] = field(default_factory=list)
    """Names of the steps that need one of those."""
    stopped: bool = False
    """Whether a signal ended it."""


def do_steps(steps: Sequence[Step], *, at_once: int, should_stop: Callable[[], bool], say: Say) -> Outcome:
    """Do steps, each after what it needs. A step that fails stops those alone that need it.

    Args:
        steps: In order, from :func:`kdhpc.reproduce.plan.open_steps`.
        at_once: How many are under way at the same time; more than one where each only waits for jobs.
        should_stop: Whether a signal has come. Commands are asked to end then, and write their checkpoints.
        say: Told each command before it starts.
    """
    outcome, waiting, nothing = Outcome(), list(steps), list[Step]()
    running: dict[tuple[str, str], _Running] = {}
    bad: set[tuple[str, str]] = set()
    while waiting or running:
        outcome.stopped = outcome.stopped or should_stop()
        if outcome.stopped and waiting is not nothing:
            # Ctrl-C reaches them as well; a signal to this process alone does not.
            waiting = nothing
            for one in running.values():
                one.terminate()
        for step in list(waiting):
            if any(need in bad for need in step.needs):
                waiting.remove(step)
                bad.add(step.key)
                outcome.left_out.append(step.name)
        open_keys = {step.key for step in waiting} | running.keys()
        for step in [step for step in waiting if not any(need in open_keys for need in step.needs)]:
            if len(running) < at_once:
                waiting.remove(step)
                running[step.key] = _Running(step, say)
        for key, one in list(running.items()):
            code = one.poll()
            if code is None:
                continue
            del running[key]
            if code == _STOPPED or code < 0:
                outcome.stopped = True
            elif code != 0:
                bad.add(key)
                outcome.failed.append(f"{one.shown} (exit code {code})")
        if running:
            time.sleep(_LOOK_S)
    return outcome


def do_report(report: Report, folder: Path, say: Say) -> int:
    """Make a figure; the exit code of its command."""
    return _Command(("report", *report.words, "--out", str(folder / report.folder)), say).process.wait()


def shown(words: Sequence[str]) -> str:
    """A command as people type it."""
    return shlex.join(["kdhpc", *words])


def commands_of(plan: Plan, folder: Path) -> list[str]:
    """All commands of a plan, in order, whether or not they are done."""
    steps = [shown(words) for step in plan.steps for words in step.commands]
    reports = [shown(("report", *report.words, "--out", str(folder / report.folder))) for report in plan.reports]
    return steps + reports


class _Command:
    def __init__(self, words: Sequence[str], say: Say) -> None:
        self.shown = shown(words)
        say(self.shown)
        # In this process's group: Ctrl-C reaches it as well, and it goes on until it has written its checkpoint.
        self.process = subprocess.Popen([*child_python_words(), "-m", "kdhpc.cli.main", *words])


class _Running:
    """The commands of a step, one after the other."""

    def __init__(self, step: Step, say: Say) -> None:
        self._left, self._say = list(step.commands), say
        self._command = _Command(self._left.pop(0), say)

    @property
    def shown(self) -> str:
        return self._command.shown

    def terminate(self) -> None:
        """Let it write its checkpoints and end; nothing is begun after that."""
        self._left.clear()
        self._command.process.send_signal(signal.SIGTERM)

    def poll(self) -> int | None:
        """The exit code once all are done, or one has failed; None: it goes on."""
        code = self._command.process.poll()
        if code == 0 and self._left:
            self._command = _Command(self._left.pop(0), self._say)
            return None
        return code
