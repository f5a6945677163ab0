"""Which process trains a run: a lock, and a record for file systems that do not share locks between machines.

The record, ``owner.json`` in the run's folder, names the process that was the last to begin the run. A process that
ends by itself removes its record. A process that is killed leaves it. So the record of another process does not prove
that this process still runs: the new process warns, writes its own record, and goes on. A process that finds the record
of another process in place of its own stops and writes nothing more. So of two processes only one trains the run to its
end, and a run whose machine died can always go on.
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
from kdhpc.final.lock import hold_lock
from kdhpc.processes import has_ended, process_space, process_start

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OwnerRecord:
    """A process that has begun a run."""

    token: str
    """Random text by which the process recognises its own record."""
    host: str
    """Name of its machine. It is for people only, as machines may share a name."""
    pid: int
    """Process id."""
    space: str
    """Where the process id is valid, see `kdhpc.processes.process_space`."""
    start: int
    """When the process started, in clock ticks since its machine was booted."""
    since: str
    """When it began the run, by its machine's clock."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} at {self.since}"


class RunOwner:
    """This process, as the one that trains a run.

    Args:
        paths: Paths of the run.
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
        """Write this process's record. Warns if another process has left one and may still run.

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
        """Whether no other process has begun the run since. True, with a warning, if that cannot be read."""
        if self._taken is None:
            try:
                self._look()
            except (StorageError, OSError) as exc:
                _LOG.warning("whether another process trains %s is not known: %s", self._paths.root, exc)
        return self._taken is None

    def check(self) -> None:
        """Raise an error if another process has begun the run since.

        Raises:
            RunTakenError: another process has begun it, or has trained it to its end.
        """
        if not self.is_own():
            raise RunTakenError(f"{self._paths.root} {self._taken}: this one stops and writes nothing more")

    def give_back(self) -> None:
        """Remove this process's record, unless it is another process's by now."""
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
        elif record is None:  # Another process has begun the run, was stopped, and has removed its record.
            self._write()

    def _write(self) -> None:
        write_whole(self._paths.owner, strict_json(dataclasses.asdict(self._own), indent=2), "\n")


@contextmanager
def owned(paths: RunPaths) -> Iterator[RunOwner]:
    """While entered, this process holds the lock of a run and has its record there.

    Raises:
        ConfigError: another process holds the lock.
        StorageError: the file system refuses.
    """
    with hold_lock(paths.lock):
        owner = RunOwner(paths)
        owner.take()
        try:
            yield owner
        finally:
            owner.give_back()


def _read(path: Path) -> OwnerRecord | None:
    """Read a record; None: there is none, or it is damaged, as after a power cut."""
    try:
        document = parse_json(read_whole(path))
        return dacite.from_dict(OwnerRecord, document) if isinstance(document, dict) else None
    except (OSError, ValueError, dacite.DaciteError):
        return None
