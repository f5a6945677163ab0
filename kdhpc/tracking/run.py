"""What a tracker is told: what a run is, what an epoch came to. Free of torch: trackers have a process of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

State = Literal["complete", "pruned", "diverged", "failed", "interrupted", "lost"]
"""How a run's time in a process ended. ``failed``: an error ended it, and it may be tried again. ``interrupted``: the
same run goes on later. ``lost``: another process has it already, which says how it ends."""


class NotKeptError(Exception):
    """Raised by a tracker's ``end``: what it was given in this process is not kept after all."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What an epoch came to."""

    epoch: int
    """1-based: the step of the tracker's axis."""
    values: Mapping[str, float]
    """Numbers by name, such as ``accuracy/ensemble``; not finite where the training has diverged."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A trial of a search, or a final training."""

    key: str
    """Tells it from other runs that had its folder before."""
    group: str
    """The study, or the name of the training."""
    name: str
    """In the group: ``trial 3``, ``seed 0``."""
    record: Path
    """Where kdhpc keeps what the tracker has of it."""
    events: Path
    """Folder for files of this run alone."""
    folder: Path
    """Folder for what the group's runs share; of a final training, the run's own."""
    store: Path
    """Folder of a store that holds many runs."""
    config: Mapping[str, str | int | float]
    """Values of the config by key, such as ``training.epochs``."""
    own: Mapping[str, str | int | float]
    """Those of them that may differ between runs of the group."""
    graph: str
    """The graph as JSON; empty: the method trains none."""
    drawing: str
    """The graph as lines of text; empty as well then."""
    made_with: Mapping[str, str]
    """Device, commits and versions."""
    run_id: str = ""
    """Eight hexadecimal digits of its own, the same in every process that goes on with it."""
    token: str | None = None
    """The `Tracker.token` that it had when it was tracked last; None: it was not."""


class Tracker(Protocol):
    """Shows one run. A class of one's own is given a `TrackedRun` alone, and may raise, hang, or end its process."""

    @property
    def token(self) -> str:
        """Finds the run again, from any machine. The one that the run had: it goes on, and gets later epochs only.
        Another one: it is begun anew, and gets all epochs so far."""
        ...

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Show an epoch, and return when it is kept. Epochs rise."""
        ...

    def end(self, state: State, reason: str) -> None:
        """The run's time in this process is over; ``reason`` says why where it failed or diverged."""
        ...
