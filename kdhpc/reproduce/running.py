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
_LAST_LINES_S = 5.0
_LINES = threading.Lock()
"""Lines of several commands are printed one after the other."""

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


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What steps are done in."""

    at_once: int
    """How many are under way at the same time. If more than one, each line that they print begins with the step's
    name."""
    alone: Sequence[str] = ()
    """Kinds of steps beside which no other is under way: they use the whole machine by themselves."""
    environment: Mapping[str, str] | None = None
    """Of the commands; None: this process's."""
    tend: Callable[[], None] = lambda: None
    """Called every two seconds while something is left to do."""
    is_held: Callable[[Step], bool] = lambda step: False
    """Whether jobs of this step, which an earlier process submitted, are still to end: it begins after them."""
    should_stop: Callable[[], bool]
    """Whether a signal has come. Commands are asked to end then, and write their checkpoints."""
    say: Say
    """Told each command before it starts."""


def do_steps(steps: Sequence[Step], around: Surroundings) -> Outcome:
    """Do steps, each after what it needs. A step that fails stops those alone that need it.

    Args:
        steps: In order, from :func:`kdhpc.reproduce.plan.open_steps`.
        around: How many at once, and what they need.
    """
    work = _Work(steps, around)
    try:
        work.do()
    finally:
        work.end()
    return work.outcome


class _Work:
    """Steps that wait, those that are under way, and what became of the others."""

    def __init__(self, steps: Sequence[Step], around: Surroundings) -> None:
        self.outcome = Outcome()
        self._around = around
        self._waiting = list(steps)
        self._running: dict[tuple[str, str], _Running] = {}
        self._bad: set[tuple[str, str]] = set()
        self._held: set[tuple[str, str]] = set()

    def do(self) -> None:
        """Until nothing is left to do, or a signal has ended it."""
        tended = time.monotonic()
        while self._waiting or self._running:
            if self._around.should_stop():
                self._stop()
            self._leave_out()
            self._begin()
            self._look()
            if time.monotonic() - tended > _TEND_S:
                self._around.tend()
                tended = time.monotonic()
            if self._waiting or self._running:
                time.sleep(_LOOK_S)

    def end(self) -> None:
        """Ask what still runs to end: an error has ended the work."""
        for one in self._running.values():
            one.terminate()

    def _stop(self) -> None:
        if not self.outcome.stopped:
            # Ctrl-C reaches them as well; a signal to this process alone does not.
            self.outcome.stopped = True
            self._waiting.clear()
            self.end()

    def _leave_out(self) -> None:
        for step in list(self._waiting):
            if any(need in self._bad for need in step.needs):
                self._waiting.remove(step)
                self._bad.add(step.key)
                self.outcome.left_out.append(step.name)

    def _begin(self) -> None:
        open_keys = {step.key for step in self._waiting} | self._running.keys()
        for step in list(self._waiting):
            if any(need in open_keys for need in step.needs):
                continue
            if self._around.is_held(step):
                if step.key not in self._held:
                    self._around.say(f"{step.name} waits for jobs of that name that are in the queue already")
                self._held.add(step.key)
                continue
            if step.key in self._held and step.is_done():
                self._waiting.remove(step)
                continue
            if not self._has_room(step):
                # In order: a step that needs the whole machine is not overtaken for ever by those that need less.
                break
            self._waiting.remove(step)
            self._running[step.key] = _Running(step, self._around)

    def _has_room(self, step: Step) -> bool:
        kinds = {kind for kind, _ in self._running}
        needs_all = step.kind in self._around.alone or kinds & set(self._around.alone)
        return len(self._running) < self._around.at_once and not (kinds and needs_all)

    def _look(self) -> None:
        for key, one in list(self._running.items()):
            code = one.poll()
            if code is None:
                continue
            del self._running[key]
            if code == _STOPPED or (code < 0 and (self.outcome.stopped or self._around.should_stop())):
                self._stop()
            elif code != 0:
                self._bad.add(key)
                how = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
                self.outcome.failed.append(f"{one.shown} ({how})")


def do_report(report: Report, folder: Path, *, should_stop: Callable[[], bool], say: Say) -> int:
    """Make a figure; the exit code of its command, which a signal ends."""
    command = _Command(("report", *report.words, "--out", str(folder / report.folder)), say)
    while (code := command.poll()) is None:
        if should_stop():
            command.process.terminate()
        time.sleep(_LOOK_S)
    return code


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
        """Its exit code once what it printed is passed on; None: it goes on."""
        code = self.process.poll()
        if code is not None:
            for reader in self._readers:
                # What it has left running may hold the pipe open.
                reader.join(timeout=_LAST_LINES_S)
        return code


def _pass_on(source: IO[bytes], target: TextIO, name: str) -> None:
    """Until it ends, also when nobody reads any more: a full pipe would stop the command."""
    with source:
        for line in source:
            text = f"{name}: {line.decode(errors='replace').rstrip()}\n"
            with _LINES, contextlib.suppress(OSError):
                target.write(text)
                target.flush()


class _Running:
    """The commands of a step, one after the other."""

    def __init__(self, step: Step, around: Surroundings) -> None:
        self._left, self._around = list(step.commands), around
        self._name = step.name if around.at_once > 1 else ""
        self._command = self._next()

    def _next(self) -> _Command:
        words, around = self._left.pop(0), self._around
        return _Command(words, around.say, name=self._name, environment=around.environment)

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
