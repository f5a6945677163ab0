"""The lock on a run's folder: only one process at a time trains the run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdhpc.errors import ConfigError
from kdhpc.files.locking import FileLock

_LOG = logging.getLogger(__name__)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock file while the context is entered. If this process is killed, the kernel releases the lock.

    Warns if the file system has no locks.

    Raises:
        ConfigError: another process holds the lock.
        StorageError: the file cannot be created.
    """
    lock = FileLock.take(path, private=True)
    if lock is None:
        raise ConfigError(
            f"{path.parent} is being trained by another process: wait for it, or name this one with run.name=NAME"
        )
    with lock:
        if lock.problem is not None:
            _LOG.warning("%s cannot be locked (%s): do not train it twice at the same time", path.parent, lock.problem)
        yield
