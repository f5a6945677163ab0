"""Removing files and folders that nobody needs any more, as far as the file system lets them go."""

import os
from pathlib import Path

from kdhpc.files.storage_errors import patiently

_HIDDEN = (".nfs", ".fuse_hidden")


def remove(path: Path) -> bool:
    """Remove a file that nobody needs any more; False: the file system refuses, and it stays."""
    try:
        patiently(lambda: path.unlink(missing_ok=True))
    except OSError:
        return False
    return True


def remove_tree(path: Path) -> bool:
    """Remove a folder and all that is in it, as far as that goes.

    By names alone: a file system may give a file another inode number each time that it is asked.

    Returns:
        False: something is left, such as the hidden file of what a process still has open.
    """
    try:
        with os.scandir(path) as entries:
            found = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
    except FileNotFoundError:
        return True
    except OSError:
        return False
    gone = [remove_tree(entry) if is_folder else remove(entry) for entry, is_folder in found if not _is_hidden(entry)]
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return all(gone)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(_HIDDEN)
