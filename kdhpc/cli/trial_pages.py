"""What ``kdhpc trial`` says: a page for people, a document for programs."""

import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from kdhpc.cli.moments import clock, utc
from kdhpc.cli.progress import duration
from kdhpc.cli.table import Fact, Part, Table
from kdhpc.config.goals import GOALS
from kdhpc.config.paths import StudyPaths
from kdhpc.graph.serial import to_document
from kdhpc.graph.space import graph_key
from kdhpc.graph.text_drawing import draw_in_text
from kdhpc.printing import has_unicode
from kdhpc.searching.alone import train_words
from kdhpc.searching.export import named_graph
from kdhpc.searching.worker_logs import WorkerLog
from kdhpc.study.attempts import TrialAttempt
from kdhpc.study.numbers import trial_label
from kdhpc.study.trial_history import CurvePoint, KnownTrial, TrialHistory

_PIPE_WIDTH = 80
LogsOfAttempts = Sequence[Sequence[WorkerLog]]
"""The logs of each attempt that are there."""


def graph_file(known: KnownTrial, written: Path | None) -> tuple[Path, bool]:
    """A file with a trial's graph, and whether it is there: what ``--out`` or ``kdhpc export-best`` wrote."""
    if written is not None:
        return written, True
    name, label = known.history.study, trial_label(known.history.number).replace(" ", "")
    path = StudyPaths.of(name).export / f"{name}-trial{label}.json"
    return _from_here(path), path.is_file()


def _from_here(path: Path) -> Path:
    """The path as people write it in this folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def trial_document(known: KnownTrial, logs: LogsOfAttempts, *, written: Path | None) -> dict[str, object]:
    """All that is known of a trial."""
    history, paths = known.history, StudyPaths.of(known.history.study)
    path, is_there = graph_file(known, written)
    graph = None if history.graph is None else named_graph(known.definition, history.graph)
    document = {
        field.name: getattr(history, field.name)
        for field in dataclasses.fields(history)
        if field.name not in ("graph", "place", "curve", "attempts")
    }
    return {
        **document,
        "label": trial_label(history.number),
        "place": None if history.place is None else dataclasses.asdict(history.place),
        "graph": None if graph is None else to_document(graph, plugins=known.definition.plugins),
        "graph_key": None if history.graph is None else graph_key(history.graph),
        "curve": [dataclasses.asdict(point) for point in history.curve],
        "attempts": [_attempt_document(attempt, found) for attempt, found in zip(history.attempts, logs, strict=True)],
        "folder": str(paths.trial(history.number)),
        "metrics": _if_there(paths.metrics(history.number)),
        "checkpoint": _if_there(paths.checkpoint(history.number)),
        "graph_file": str(path) if is_there else None,
        "train_command": None
        if history.graph is None
        else shlex.join(train_words(known.definition, history.graph, path)),
    }


def _attempt_document(attempt: TrialAttempt, logs: Sequence[WorkerLog]) -> dict[str, object]:
    return {
        **dataclasses.asdict(attempt),
        "began": None if attempt.began is None else utc(attempt.began),
        "ended": None if attempt.ended is None else utc(attempt.ended),
        "logs": [str(log.path) for log in logs],
    }


def _if_there(path: Path) -> str | None:
    return str(path) if path.exists() else None


def trial_page(known: KnownTrial, logs: LogsOfAttempts, *, written: Path | None) -> list[Part]:
    """The same, for people."""
    history = known.history
    parts: list[Part] = [
        Fact(label="trial", text=f"{_named(history)} of study {history.study}"),
        Fact(label="state", text=_state(history)),
    ]
    if history.worked_s or history.mode:
        now = " before the present lease" if history.state == "running" else ""
        how = ", ".join(word for word in (history.mode, history.data) if word)
        parts.append(Fact(label="work", text=f"{duration(history.worked_s)}{now}{f' ({how})' if how else ''}"))
    if history.graph is None:
        parts.append(Fact(label="graph", text="still to be chosen by the study's sampler"))
    else:
        parts.append(Fact(label="graph", text=f"{graph_key(history.graph)}, {known.definition.network}"))
        parts += ["", *_drawing(known), ""]
    if history.curve:
        parts += [_curve(history), ""]
    if history.attempts:
        parts += [_attempts(history), ""]
    return [*parts, *_files(known, logs), *_alone(known, written)]


def _named(history: TrialHistory) -> str:
    label = trial_label(history.number)
    if history.repetition is None:
        return label
    return f"{label}: training {history.repetition} of {history.name or 'a graph of the search, to confirm it'}"


def _state(history: TrialHistory) -> str:
    goal = GOALS[history.goal]
    if history.state == "complete" and history.value is not None:
        place = "" if history.place is None else f", place {history.place.place} of {history.place.of} complete trials"
        said = f"complete: {goal.named(history.value)}{place}"
    elif history.state == "pruned":
        said = _why_pruned(history)
    elif history.state == "diverged":
        said = f"diverged in epoch {history.diverged_at}: {history.reason}"
    elif history.state == "failed":
        said = f"failed: {history.reason}; `kdhpc retry --study {history.study} --trial {history.number}`, once mended"
        said = f"failed: {history.reason}" if history.number < 0 else said
    else:
        reported = history.curve[-1].epoch if history.curve else 0
        epoch = history.epoch or reported
        reached = f", {'in' if history.epoch else 'after'} epoch {epoch} of {history.last_epoch}" if epoch else ""
        crashed = f"; its last attempt crashed: {history.reason}" if history.reason else ""
        said = f"{history.state}{reached}{crashed}"
    return said


def _why_pruned(history: TrialHistory) -> str:
    """By which rule; the others have reported more since, so that their median is another one now."""
    epoch, goal = history.pruned_at, GOALS[history.goal]
    point = next((point for point in history.curve if point.epoch == epoch), None)
    if point is None:
        return "pruned"
    worse = "below" if goal.maximise else "above"
    rule = {
        "median": f"{worse} the median of the others that had reported by then",
        "asha": "not in the better half of those that had reported by then",
    }.get(history.pruner, f"by the rule '{history.pruner}'")
    return f"pruned at epoch {epoch}: {goal.shown(point.value)} was {rule} (study.pruner={history.pruner})"


def _drawing(known: KnownTrial) -> list[str]:
    assert known.history.graph is not None
    graph = named_graph(known.definition, known.history.graph)
    return [*draw_in_text(graph, width=_terminal_width() or _PIPE_WIDTH, is_ascii=not _has_unicode())]


def _terminal_width() -> int | None:
    """In characters; None: a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _has_unicode() -> bool:
    encoding = getattr(sys.stdout, "encoding", None)
    if sys.stdout.isatty():
        return has_unicode(encoding, os.environ)
    return (encoding or "").lower().replace("-", "").startswith("utf")


def _curve(history: TrialHistory) -> Table:
    goal = GOALS[history.goal]

    def told(point: CurvePoint) -> str:
        if point.epoch == history.pruned_at:
            return "pruned"
        if point.median is None:
            return ""
        ahead = goal.sign * (point.value - point.median)
        return "ahead" if ahead > 0 else "behind" if ahead < 0 else "equal"

    rows = [
        (
            str(point.epoch),
            goal.shown(point.value),
            "-" if point.median is None else goal.shown(point.median),
            str(point.others),
            told(point),
        )
        for point in history.curve
    ]
    return Table(head=("epoch", goal.short or "accuracy", "median", "others", "compared"), rows=rows, spare=("others",))


def _attempts(history: TrialHistory) -> Table:
    with_reasons = any(attempt.reason for attempt in history.attempts)
    rows = [
        (
            f"{attempt.host}:{attempt.pid}",
            attempt.job or "-",
            "-" if attempt.began is None else clock(attempt.began),
            "-" if attempt.ended is None else clock(attempt.ended),
            attempt.how or "-",
            *((attempt.reason or "",) if with_reasons else ()),
        )
        for attempt in history.attempts
    ]
    alarming = frozenset(
        index for index, attempt in enumerate(history.attempts) if attempt.how in ("crashed", "vanished", "failed")
    )
    head = ("worker", "job", "began", "ended", "how", *(("reason",) if with_reasons else ()))
    return Table(head=head, rows=rows, wraps=("reason",), spare=("ended", "job"), alarming=alarming)


def _files(known: KnownTrial, logs: LogsOfAttempts) -> list[Part]:
    history = known.history
    folder = StudyPaths.of(history.study).trial(history.number)
    paths = dict.fromkeys(log.path for found in logs for log in found)
    number = f" --study {history.study} --trial {trial_label(history.number)}"
    parts: list[Part] = [
        Fact(label="folder", text=f"{_from_here(folder)}{'' if folder.is_dir() else ' (not there)'}"),
        *(Fact(label="log", text=str(_from_here(path))) for path in paths),
    ]
    if paths:
        return [*parts, Fact(label="", text=f"`kdhpc logs{number}` shows what it says of this trial")]
    return [*parts, Fact(label="log", text="none is there: its worker was started by hand, or the file was removed")]


def _alone(known: KnownTrial, written: Path | None) -> list[Part]:
    """How to train its graph alone."""
    history = known.history
    if history.graph is None:
        return []
    path, is_there = graph_file(known, written)
    write = ["kdhpc", "trial", *trial_label(history.number).split(), "--study", history.study, "--out", str(path)]
    commands = [*([] if is_there else [write]), train_words(known.definition, history.graph, path)]
    return ["", "to train its graph alone, on all images:", *(line for words in commands for line in _typed(words))]


def _typed(words: Sequence[str]) -> list[str]:
    """A command as a shell reads it; on a terminal, lines that go on end as a shell wants it, to be copied."""
    width, (first, *others) = _terminal_width(), map(shlex.quote, words)
    lines = [first]
    for word in others:
        if width is None or len(f"{lines[-1]} {word} \\") <= width:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {word}")
    return lines
