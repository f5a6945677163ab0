"""The hidden folder in which a data set is made, and the step that gives it its name.

``.<name>.partial`` lies beside the final folder. A run may be killed at any time: what it leaves there does not open,
and the next run goes on with it.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdhpc.errors import DataError

_LOCK = "lock"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The hidden folder of a data set in the making."""

    root: Path
    """``.<name>.partial``."""

    @property
    def unpacked(self) -> Path:
        """What came out of archives."""
        return self.root / "unpacked"

    @property
    def parts(self) -> Path:
        """Decoded images, in parts."""
        return self.root / "parts"

    @property
    def packed(self) -> Path:
        """The packed form, until it takes its name."""
        return self.root / "packed"

    @property
    def replaced(self) -> Path:
        """What had the name before."""
        return self.root / "replaced"


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """The hidden folder of ``folder``, for one process at a time; it goes when the block ends well.

    Raises:
        DataError: another process has it.
    """
    stage = Stage(root=folder.with_name(f".{folder.name}.partial"))
    stage.root.mkdir(parents=True, exist_ok=True)
    with (stage.root / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process prepares {folder} now: wait for it, or use another --name") from None
        except OSError:
            # Some cluster file systems have no locks; two runs at once are the user's mistake, not ours to insist on.
            pass
        try:
            yield stage
        except BaseException:
            if [path.name for path in stage.root.iterdir()] == [_LOCK]:
                shutil.rmtree(stage.root)
            raise
        shutil.rmtree(stage.root)


def publish(stage: Stage, folder: Path) -> None:
    """Gives the finished data set its name; what had the name before goes with the hidden folder."""
    shutil.rmtree(stage.replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(stage.replaced)
    stage.packed.rename(folder)
