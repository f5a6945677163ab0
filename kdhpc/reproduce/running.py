"""Doing the steps of a plan, by the commands that are there, each as a process of its own."""

import contextlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from kdhpc.interpreter import child_python_words
from kdhpc.reproduce.plan import Plan, Report, Step

_STOPPED = 130
_LOOK_S = 0.2
_TEND_S = 2.0

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


def do_steps(
    steps: Sequence[Step],
    *,
    at_once: int,
    alone: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    tend: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool],
    say: Say,
) -> Outcome:
    """Do steps, each after what it needs. A step that fails stops those alone that need it.

    Args:
        steps: In order, from :func:`kdhpc.reproduce.plan.open_steps`.
        at_once: How many are under way at the same time. If more than one, each line that they print begins with the
            step's name.
        alone: Kinds of steps beside which no other is under way: they use the whole machine by themselves.
        environment: Of the commands; None: this process's.
        tend: Called every two seconds while a command runs.
        should_stop: Whether a signal has come. Commands are asked to end then, and write their checkpoints.
        say: Told each command before it starts.
    """
    outcome, waiting, nothing, tended = Outcome(), list(steps), list[Step](), time.monotonic()
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
        at_work = [step for step in steps if step.key in running]
        for step in [step for step in waiting if not any(need in open_keys for need in step.needs)]:
            # In order: a step that needs the whole machine is not overtaken for ever by those that need less.
            if len(running) >= at_once or (running and any(one.kind in alone for one in (step, *at_work))):
                break
            waiting.remove(step)
            at_work.append(step)
            running[step.key] = _Running(step, say, is_named=at_once > 1, environment=environment)
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
            if time.monotonic() - tended > _TEND_S:
                tend()
                tended = time.monotonic()
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
    """A command of kdhpc as a process.

    Args:
        words: After ``kdhpc``.
        say: Told the command.
        name: Stands before each line that it prints; empty: it prints by itself, as on a terminal.
        environment: Its environment; None: this process's.
    """

    def __init__(
        self, words: Sequence[str], say: Say, *, name: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        self.shown = shown(words)
        say(self.shown)
        pipe = subprocess.PIPE if name else None
        # In this process's group: Ctrl-C reaches it as well, and it goes on until it has written its checkpoint.
        self.process = subprocess.Popen(
            [*child_python_words(), "-m", "kdhpc.cli.main", *words], stdout=pipe, stderr=pipe, env=environment
        )
        self._readers = [
            threading.Thread(target=_pass_on, args=(source, target, name), daemon=True)
            for source, target in ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
            if source is not None
        ]
        for reader in self._readers:
            reader.start()

    def poll(self) -> int | None:
        """Its exit code once all that it printed is passed on; None: it goes on."""
        code = self.process.poll()
        if code is not None:
            for reader in self._readers:
                reader.join()
        return code


def _pass_on(source: IO[bytes], target: TextIO, name: str) -> None:
    """Until it ends, also when nobody reads any more: a full pipe would stop the command."""
    with source:
        for line in source:
            with contextlib.suppress(OSError):
                print(f"{name}: {line.decode(errors='replace').rstrip()}", file=target, flush=True)


class _Running:
    """The commands of a step, one after the other."""

    def __init__(self, step: Step, say: Say, *, is_named: bool, environment: Mapping[str, str] | None) -> None:
        self._left, self._say = list(step.commands), say
        self._name, self._environment = step.name if is_named else "", environment
        self._command = self._next()

    def _next(self) -> _Command:
        return _Command(self._left.pop(0), self._say, name=self._name, environment=self._environment)

    @property
    def shown(self) -> str:
        return self._command.shown

    def terminate(self) -> None:
        """Let it write its checkpoints and end; nothing is begun after that."""
        self._left.clear()
        self._command.process.send_signal(signal.SIGTERM)

    def poll(self) -> int | None:
        """The exit code once all are done, or one has failed; None: it goes on."""
        code = self._command.poll()
        if code == 0 and self._left:
            self._command = self._next()
            return None
        return code
