"""Whether a process has ended, as far as can be seen from here. Host names are not used: many machines share one."""

import os
from pathlib import Path
from typing import NamedTuple


def process_space() -> str:
    """Where process ids mean what they mean to this process: this boot of this machine, this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def process_start(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None: it has ended, or cannot be seen."""
    seen = _look_at(pid)
    return None if seen is None or seen.has_ended else seen.start


def has_ended(pid: int, space: str, start: int) -> bool:
    """Whether a process has ended for certain: its number is nobody's here, or another process has it now.

    Args:
        pid: Its number.
        space: Where that number holds.
        start: When it began, in clock ticks since boot.

    Returns:
        False where that cannot be known: of another machine's or container's, of another user's where those are hidden
        (``hidepid``), and in a container that has no ``/proc`` of its own.
    """
    if space != process_space():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # Another user's.
        pass
    seen = _look_at(pid)
    return seen is not None and (seen.has_ended or seen.start != start)


def lock_holder(path: Path) -> int | None:
    """The process that holds a file locked (``flock``), if it is one of this machine and container.

    One that has given its lock on to a child may have ended.
    """
    try:
        found = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in lines:
        # "1: FLOCK  ADVISORY  WRITE 4711 fd:00:1234 0 EOF"; of who waits, "1: -> FLOCK ...".
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == file and words[4].isdecimal():
            return int(words[4])
    return None


def process_owner(pid: int) -> int | None:
    """The user whose process it is; None: it cannot be seen from here."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


class _Seen(NamedTuple):
    start: int
    has_ended: bool


def _look_at(pid: int) -> _Seen | None:
    try:
        if Path("/proc/self").readlink().name != str(os.getpid()):  # A container with the /proc of another.
            return None
        # Before the bracket is the program's name, which may be anything.
        state, *numbers = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return None
    # A zombie does nothing more.
    return _Seen(start=int(numbers[18]), has_ended=state in "ZX")
