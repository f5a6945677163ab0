"""What kdhpc and the process of a tracker say to each other: a line of JSON each."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import dacite

from kdhpc.tracking.run import Point, State, TrackedRun


@dataclass(frozen=True, kw_only=True)
class Begin:
    """A run begins here, or goes on."""

    number: int
    """Names the run in the messages that follow."""
    run: TrackedRun
    """What it is."""
    points: tuple[Point, ...]
    """All of its epochs so far, of other processes as well."""
    kind: Literal["begin"] = "begin"


@dataclass(frozen=True, kw_only=True)
class Log:
    """An epoch has ended."""

    number: int
    point: Point
    kind: Literal["log"] = "log"


@dataclass(frozen=True, kw_only=True)
class End:
    """A run's time here is over."""

    number: int
    state: State
    reason: str
    kind: Literal["end"] = "end"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a tracker's process says."""

    number: int = -1
    """The run; -1: of none."""
    epochs: tuple[int, ...] = ()
    """Epochs that the tracker has now."""
    lost: bool = False
    """It has none of the run's epochs, whatever it said before."""
    ended: bool = False
    """It has ended the run."""
    problem: str = ""
    """What went wrong, in one line."""
    hopeless: bool = False
    """Nothing more will come of it."""


Message: TypeAlias = Begin | Log | End
_RULES = dacite.Config(cast=[tuple, Path, float], strict=True)


def to_line(message: Message | Answer) -> bytes:
    """One line. Numbers may be NaN, which only this pair of processes reads."""
    return json.dumps(asdict(message), default=str).encode() + b"\n"


def parse_message(line: bytes) -> Message:
    """A line that `to_line` wrote."""
    document = json.loads(line)
    kinds: dict[str, type[Message]] = {"begin": Begin, "log": Log, "end": End}
    return dacite.from_dict(kinds[document["kind"]], document, _RULES)


def parse_answer(line: bytes) -> Answer:
    """A line that `to_line` wrote."""
    return dacite.from_dict(Answer, json.loads(line), _RULES)
