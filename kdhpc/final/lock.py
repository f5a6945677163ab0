"""A run's folder belongs to one process at a time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdhpc.errors import ConfigError
from kdhpc.files.locking import FileLock

_LOG = logging.getLogger(__name__)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel gives it back even if this process is killed.

    Warns where the file system locks nothing.

    Raises:
        ConfigError: another process holds it.
        StorageError: the file cannot be made.
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
