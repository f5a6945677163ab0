"""A run's folder belongs to one process at a time."""

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdhpc.errors import ConfigError

_LOG = logging.getLogger(__name__)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel gives it back even if this process is killed.

    Raises:
        ConfigError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EACCES):
                raise ConfigError(
                    f"{path.parent} is being trained by another process: wait for it, or name this one with "
                    "run.name=NAME"
                ) from exc
            _LOG.warning("%s cannot be locked (%s): do not train it twice at the same time", path.parent, exc.strerror)
        yield
