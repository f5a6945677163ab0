"""How far a run is tracked: a file in its folder, so that whoever goes on with it repeats no epoch."""

import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import dacite

from kdhpc.errors import StorageError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole


@dataclass(frozen=True, kw_only=True)
class Journal:
    """What a tracker has of a run."""

    tracker: str
    """Its name in the config."""
    key: str
    """`TrackedRun.key`."""
    run_id: str
    """`TrackedRun.run_id`."""
    token: str | None = None
    """`Tracker.token`; None: it was never begun."""
    epoch: int = 0
    """The last epoch that the tracker has."""


def open_journal(path: Path, *, tracker: str, key: str) -> Journal:
    """The journal of a run, or a new one where there is none, or one of another run or tracker, or a damaged one."""
    try:
        found = dacite.from_dict(Journal, parse_json(read_whole(path)), dacite.Config(strict=True))  # type: ignore[arg-type]
    except (OSError, StorageError, ValueError, TypeError, AttributeError, RecursionError, dacite.DaciteError):
        found = None
    if found is None or (found.tracker, found.key) != (tracker, key):
        return Journal(tracker=tracker, key=key, run_id=secrets.token_hex(4))
    return found


def write_journal(journal: Journal, path: Path) -> None:
    """Write it, whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    write_whole(path, strict_json(asdict(journal)), "\n")
