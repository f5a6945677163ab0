"""Who trains a run: a lock, and a record in its folder for file systems on which two nodes' locks do not meet.

The record names the process that has begun the run last. A process that ends on its own removes it; one that was killed
leaves it, so a record of another process proves nothing: it is said, and the run is taken up. Whoever finds that the
record is another's by now stops and writes nothing more. So two processes never train a run to its end unheard, and
a run of a node that died can always go on.
"""

import dataclasses
import logging
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dacite

from kdhpc.config.paths import RunPaths
from kdhpc.errors import RunTakenError, StorageError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.removing import remove
from kdhpc.files.writing import write_whole
from kdhpc.final.lock import held
from kdhpc.processes import has_ended, process_space, process_start

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OwnerRecord:
    """A process that has begun a run."""

    token: str
    """Of this beginning, and no other."""
    host: str
    """For people: many machines may share a name."""
    pid: int
    """Number of the process."""
    space: str
    """Where that number holds."""
    start: int
    """When the process began, in clock ticks since boot."""
    since: str
    """When it began the run, by its own clock."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} at {self.since}"


class RunOwner:
    """This process, as the owner of a run.

    Args:
        paths: The run's.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._own = OwnerRecord(
            token=secrets.token_hex(16),
            host=platform.node(),
            pid=os.getpid(),
            space=process_space(),
            start=process_start(os.getpid()) or 0,
            since=time.strftime("%Y-%m-%d %H:%M:%S%z"),
        )
        self._taken: str | None = None

    def take(self) -> None:
        """Become the owner, and say who may believe to be it.

        Raises:
            StorageError: the file system refuses.
        """
        before = _read(self._paths.owner)
        if before is not None and not has_ended(before.pid, before.space, before.start):
            _LOG.warning(
                "%s was begun by %s, which has not said that it ended: if it still runs, one of the two stops",
                self._paths.root,
                before,
            )
        self._write()

    def is_own(self) -> bool:
        """Whether no other process has begun the run since; as far as the file system answers."""
        if self._taken is None:
            try:
                self._look()
            except (StorageError, OSError) as exc:
                _LOG.warning("whether another process trains %s is not known: %s", self._paths.root, exc)
        return self._taken is None

    def check(self) -> None:
        """Stop where another process has begun the run since.

        Raises:
            RunTakenError: it has.
        """
        if not self.is_own():
            raise RunTakenError(f"{self._paths.root} {self._taken}: this one stops and writes nothing more")

    def give_back(self) -> None:
        """Say that this process has ended."""
        try:
            record = _read(self._paths.owner)
        except StorageError:
            return
        if record is not None and record.token == self._own.token:
            remove(self._paths.owner)

    def _look(self) -> None:
        record = _read(self._paths.owner)
        if record is not None and record.token != self._own.token:
            self._taken = f"was begun again by {record}"
        elif self._paths.result.exists():
            self._taken = "was trained to its end by another process"
        elif record is None:  # Another process has taken the run over, and was stopped.
            self._write()

    def _write(self) -> None:
        write_whole(self._paths.owner, strict_json(dataclasses.asdict(self._own), indent=2), "\n")


@contextmanager
def owned(paths: RunPaths) -> Iterator[RunOwner]:
    """Be the owner of a run.

    Raises:
        ConfigError: another process holds its lock.
        StorageError: the file system refuses.
    """
    with held(paths.lock):
        owner = RunOwner(paths)
        owner.take()
        try:
            yield owner
        finally:
            owner.give_back()


def _read(path: Path) -> OwnerRecord | None:
    """The record in a file; None where there is none, or one that a power cut has damaged."""
    try:
        document = parse_json(read_whole(path))
        return dacite.from_dict(OwnerRecord, document) if isinstance(document, dict) else None
    except (OSError, ValueError, dacite.DaciteError):
        return None
