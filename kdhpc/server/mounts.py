"""Which file system a folder is on: one that a single machine mounts, or one that others may have mounted, too."""

import os
import re
from pathlib import Path

_LOCAL = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "nilfs2"),
        *("tmpfs", "ramfs", "overlay"),
    }
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, as ``ext4``, ``nfs4``, ``fuse.sshfs``; empty: it cannot be told.

    Args:
        folder: An absolute path without links.
    """
    found, depth = "", -1
    try:
        lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, system = line.partition(" - ")
        point = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), mount.split()[4]))
        # Of several mounts at one place, the last one is seen.
        if folder.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = system.split()[0], len(point.parts)
    return found


def is_local(name: str) -> bool:
    """Whether only one machine at a time can have a file system of that type mounted; unknown types count as shared."""
    return name in _LOCAL
