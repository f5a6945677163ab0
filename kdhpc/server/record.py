"""Who owns the data folder of the embedded server: one record a start, ``owner.<n>.json`` in the server's folder.

A start claims the folder by making the file with the next number. Exclusive creation is atomic on every file system,
also on NFS and Lustre, with and without locks that work: of two starts at once, on whatever machines, one wins. A
record goes from starting to running to stopped and never back; a newer record says that all before it have ended.
"""

import os
import re
import socket
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.locking import FileLock
from kdhpc.files.reading import read_whole
from kdhpc.files.removing import remove
from kdhpc.files.storage_errors import patiently, storage_error
from kdhpc.files.writing import create_alone, write_whole
from kdhpc.processes import process_space, process_start
from kdhpc.server.data_folder import DATABASE, PASSFILE, ROLE
from kdhpc.server.endpoint import Endpoint, not_for_this_user
from kdhpc.server.mounts import file_system
from kdhpc.server.pid_file import WrittenPid

STARTING, RUNNING, STOPPED = "starting", "running", "stopped"
STRAY, UNREADABLE = "stray", "unreadable"
_FORMAT, _VERSION = "kdhpc-server-owner", 1
_NAME = re.compile(r"owner\.([1-9]\d*)\.json")
# Old records are kept: a machine that read the folder a minute ago may try an old number, and has to fail.
_KEPT = 10


@dataclass(frozen=True, kw_only=True)
class FolderIdentity:
    """What tells a folder from a copy of it, and whether other processes can see the lock in it."""

    path: str
    """The server's folder, links resolved, as the process saw it."""
    device: int
    """Device number of the file system there: means the same to all processes of one boot of a machine."""
    lock_inode: int
    """Inode number of ``server.lock``."""
    file_system: str
    """Type of the file system, such as ``ext4`` or ``nfs4``."""
    has_locks: bool
    """The process held ``server.lock`` on a file system that has locks."""

    @classmethod
    def of(cls, folder: Path, lock: FileLock | None = None) -> "FolderIdentity":
        """The identity of a folder, as this process sees it.

        Args:
            folder: The server's folder.
            lock: The lock on ``server.lock``; None: this process does not hold it.
        """
        try:
            found = lock_path(folder).stat()
        except OSError:
            device, inode = 0, 0
        else:
            device, inode = found.st_dev, found.st_ino
        return cls(
            path=str(folder),
            device=device,
            lock_inode=inode,
            file_system=file_system(folder),
            has_locks=lock is not None and lock.problem is None,
        )


@dataclass(frozen=True, kw_only=True)
class ServerRecord:
    """One start of a server."""

    number: int
    """Number of the start: the starts in a folder are counted from 1."""
    state: str
    """``starting``: claimed; ``running``: launched; ``stopped``: ended for certain. Two states are in no file:
    ``stray``, a server that no record tells of; ``unreadable``, a record that cannot be read."""
    token: str
    """Unique to this start. The server was given it, and answers with it."""
    host: str
    """Name or address that workers connect to."""
    port: int
    """TCP port; 0 before it is launched."""
    node: str
    """Host name of its machine, for people: it proves nothing."""
    space: str
    """The boot of the machine and the container in which the process id is valid."""
    pid: int
    """The server's process; while it is starting, that of the command that starts it."""
    process_start: int
    """When that process began, in clock ticks since boot."""
    started: str
    """When the server was started, ISO 8601 in UTC."""
    job: str | None
    """The batch job that it ends with; None: it is not part of one."""
    folder: FolderIdentity
    """The folder, as the start saw it."""
    problem: str = ""
    """Why the record could not be read; empty for all others."""

    @property
    def boot(self) -> str:
        """The boot of the machine that it was started in."""
        return self.space.partition(" ")[0]

    @property
    def is_of_this_boot(self) -> bool:
        """Whether it was started by this kernel, in whatever container."""
        return bool(self.boot) and self.boot == process_space().partition(" ")[0]

    @property
    def is_of_this_space(self) -> bool:
        """Whether its process id is valid here: the same boot and container."""
        return bool(self.space) and self.space == process_space()

    def is_folder(self, folder: Path) -> bool:
        """Whether its folder is this one and not the original of a copy, as far as inode numbers tell."""
        here = FolderIdentity.of(folder)
        same_device = self.folder.device == here.device or not self.is_of_this_boot
        return bool(here.lock_inode) and self.folder.lock_inode == here.lock_inode and same_device

    def is_in_copy(self, folder: Path) -> bool:
        """Whether the folder is a copy of the one in which it was started: another file at another path."""
        return bool(self.folder.path) and self.folder.path != str(folder) and not self.is_folder(folder)

    def endpoint(self) -> Endpoint:
        """The server's address, as workers are given it."""
        return Endpoint(
            host=self.host,
            port=self.port,
            database=DATABASE,
            user=ROLE,
            passfile=PASSFILE,
            node=self.node,
            pid=None if self.state == STOPPED else self.pid,
            started=self.started,
            job=self.job,
            token=self.token,
        )


def lock_path(folder: Path) -> Path:
    """The file that the server and all its processes hold locked as long as they live."""
    return folder / "server.lock"


def record_path(folder: Path, number: int) -> Path:
    """The record of one start."""
    return folder / f"owner.{number}.json"


def new_record(folder: Path, number: int, *, host: str, job: str | None, lock: FileLock | None) -> ServerRecord:
    """The record of a start by this process."""
    return ServerRecord(
        number=number,
        state=STARTING,
        token=uuid.uuid4().hex,
        host=host,
        port=0,
        node=socket.gethostname(),
        space=process_space(),
        pid=os.getpid(),
        process_start=process_start(os.getpid()) or 0,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        job=job,
        folder=FolderIdentity.of(folder, lock),
    )


def claim(folder: Path, record: ServerRecord) -> bool:
    """Claim the folder by making the record's file; False: another start has this number, or a later one.

    Raises:
        StorageError: the file system refuses.
    """
    path = record_path(folder, record.number)
    if not create_alone(path, _to_text(record)):
        return False
    if not is_newest(folder, record):
        remove(path)
        return False
    for number in _numbers(folder):
        if number <= record.number - _KEPT:
            remove(record_path(folder, number))
    return True


def is_newest(folder: Path, record: ServerRecord) -> bool:
    """Whether no later start has claimed the folder."""
    return max(_numbers(folder), default=0) <= record.number


def update(folder: Path, record: ServerRecord) -> None:
    """Replace the text of a record whose number this start has claimed.

    Raises:
        StorageError: the file system refuses.
    """
    write_whole(record_path(folder, record.number), _to_text(record))


def newest_record(folder: Path, *, at_least: int = 0) -> ServerRecord | None:
    """The last start's record, unreadable or not; None: there was no start.

    Args:
        folder: The server's folder, resolved.
        at_least: A number that is known to be taken, though its file may not be seen from here for a while.
    """
    number = max(at_least, *_numbers(folder), 0)
    return _read(folder, number) if number else None


def unknown_record(
    number: int, state: str, *, host: str = "", port: int = 0, node: str = "", pid: int = 0, problem: str = ""
) -> ServerRecord:
    """A record that holds the little that is known of a server without a readable record."""
    nowhere = FolderIdentity(path="", device=0, lock_inode=0, file_system="", has_locks=False)
    return ServerRecord(
        number=number,
        state=state,
        token="",
        host=host,
        port=port,
        node=node,
        space="",
        pid=pid,
        process_start=0,
        started="",
        job=None,
        folder=nowhere,
        problem=problem,
    )


def known_pids(folder: Path) -> set[WrittenPid]:
    """Process ids and ports of the servers that were started in a folder, the last few."""
    records = (_read(folder, number) for number in _numbers(folder))
    return {WrittenPid(pid=record.pid, port=record.port) for record in records if record.state != UNREADABLE}


def _numbers(folder: Path) -> list[int]:
    try:
        names = patiently(lambda: [entry.name for entry in folder.iterdir()])
    except FileNotFoundError:
        return []
    except PermissionError as exc:
        raise DatabaseError(not_for_this_user(folder)) from exc
    except OSError as exc:
        raise storage_error(exc, folder, "read") from exc
    return [int(match[1]) for match in map(_NAME.fullmatch, names) if match]


def _read(folder: Path, number: int) -> ServerRecord:
    """A record; one that cannot be read says why."""
    path = record_path(folder, number)
    try:
        return _from_text(read_whole(path), number)
    except FileNotFoundError:
        why = "it is not there, or cannot be seen from here yet"
    except (OSError, StorageError, ValueError, KeyError, TypeError, AttributeError) as exc:
        why = str(exc) or type(exc).__name__
    return unknown_record(number, UNREADABLE, problem=f"{path} cannot be read ({why})")


def _to_text(record: ServerRecord) -> str:
    values = {name: value for name, value in asdict(record).items() if name not in ("number", "problem")}
    return strict_json({"format": _FORMAT, "version": _VERSION, **values}, indent=2) + "\n"


def _from_text(text: bytes, number: int) -> ServerRecord:
    document = parse_json(text)
    if not isinstance(document, dict) or (document.pop("format"), document.pop("version")) != (_FORMAT, _VERSION):
        raise ValueError(f"it is not of format {_FORMAT}, version {_VERSION}")
    identity = FolderIdentity(**document.pop("folder"))
    return ServerRecord(number=number, folder=identity, **document)
