"""Removing files and folders that nobody needs any more. That the file system refuses is no error."""

import os
from pathlib import Path

from kdhpc.files.storage_errors import patiently

_HIDDEN = (".nfs", ".fuse_hidden")


def remove(path: Path) -> bool:
    """Remove a file. A file that is not there counts as removed.

    Returns:
        False: the file system refuses, and the file is still there.
    """
    try:
        patiently(lambda: path.unlink(missing_ok=True))
    except OSError:
        return False
    return True


def remove_tree(path: Path) -> bool:
    """Remove a folder and everything in it, as far as the file system allows.

    Only names are used, as some file systems give a file another inode number each time that they are asked.

    Returns:
        False: something is left, such as the hidden file that NFS keeps while a process has a removed file open.
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
