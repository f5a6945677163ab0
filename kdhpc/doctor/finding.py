"""What a check of the surroundings finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """How a thing is."""

    OK = "ok"
    ABSENT = "not here"
    """Not installed, not made yet, not on this machine: needed for some uses only."""
    FAULT = "to do"
    """It is here, or somebody has configured it, and it does not work."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of ``kdhpc doctor``."""

    name: str
    """The thing, in a word or two."""
    state: State
    """How it is."""
    words: str
    """What was seen."""
    remedy: str = ""
    """What to do; empty: nothing, or the words say it."""


def ok(name: str, words: str) -> Finding:
    """Of a thing that works."""
    return Finding(name=name, state=State.OK, words=words)


def absent(name: str, words: str, remedy: str = "") -> Finding:
    """Of a thing that is not here."""
    return Finding(name=name, state=State.ABSENT, words=words, remedy=remedy)


def fault(name: str, words: str, remedy: str = "") -> Finding:
    """Of a thing that should work, and does not."""
    return Finding(name=name, state=State.FAULT, words=words, remedy=remedy)


def from_document(document: Mapping[str, str]) -> Finding:
    """A finding that another process has written as JSON, by ``dataclasses.asdict``."""
    return Finding(
        name=document["name"],
        state=State(document["state"]),
        words=document["words"],
        remedy=document["remedy"],
    )
