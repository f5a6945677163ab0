"""When a training's checkpoint is read and written: once at its beginning, then beside the training."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from kdhpc.errors import CheckpointError
from kdhpc.training.checkpoint import (
    CheckpointHeader,
    CheckpointKey,
    load_checkpoint,
    read_header,
    remove_checkpoint,
    remove_leftovers,
    save_checkpoint,
)
from kdhpc.training.loop import TrainingLoop, TrainingState

_LOG = logging.getLogger(__name__)


class Checkpointing:
    """The checkpoint of one training.

    The state is copied between two steps; a thread serialises, hashes and writes it while training goes on. If the disk
    refuses, a warning is logged and the old checkpoint stays. That does not end the training: it only costs time after
    an interruption. Enter the object as a context, which waits for the last write.

    Args:
        path: The file.
        training: The training whose state is saved.
        key: Identifies the training: it goes on only from checkpoints with this key.
        every_s: Seconds after which the next checkpoint is due.
        name: What the training is called in log lines.
        may_write: Asked before each write, and again when it is on the disk; False: the file is another worker's.
        on_written: Called with the step of each checkpoint that is on the disk, by the thread that wrote it.
    """

    def __init__(
        self,
        path: Path,
        training: TrainingLoop,
        key: CheckpointKey,
        *,
        every_s: float,
        name: str,
        may_write: Callable[[], bool] = lambda: True,
        on_written: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._path = path
        self._training = training
        self._key = key
        self._every_s = every_s
        self._name = name
        self._may_write = may_write
        self._on_written = on_written
        self._rejected: CheckpointHeader | None = None
        self._saved = time.monotonic()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._write: Future[None] | None = None

    def __enter__(self) -> "Checkpointing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def restore(self, check: Callable[[TrainingState], None] = lambda state: None) -> bool:
        """Go on from the file, if there is one.

        If it is damaged, or another training's, a warning is logged and the training starts from its beginning. Its
        first checkpoint replaces the file.

        Args:
            check: Raises CheckpointError where the training must not go on from that state.

        Returns:
            Whether there is a file, even one from which the training cannot go on.

        Raises:
            StorageError: the file system refuses to read it, so that a sound checkpoint may be there.
        """
        remove_leftovers(self._path)
        try:
            state = load_checkpoint(self._path, self._key)
            check(state)
            self._training.restore(state)
        except FileNotFoundError:
            return False
        except CheckpointError as exc:
            _LOG.warning("%s starts from its beginning: %s", self._name, exc)
            self._rejected = read_header(self._path)
            return True
        _LOG.info("%s goes on after epoch %d, step %d", self._name, self._training.epoch, self._training.step)
        return True

    def save_if_due(self) -> bool:
        """Save the state if a checkpoint is due and none is being written. Returns whether a write was begun."""
        written = self._write is None or self._write.done()
        due = written and time.monotonic() - self._saved >= self._every_s
        if due:
            self._save()
        return due

    def save_after(self, seconds: float) -> None:
        """Save the state if the last checkpoint, or the beginning, is so long ago; a write that runs is waited for."""
        if time.monotonic() - self._saved >= seconds:
            self._wait()
            self._save()

    def _save(self) -> None:
        """Copy the state and let it be written."""
        self._saved = time.monotonic()
        self._write = self._thread.submit(self._try_to_write, self._training.state())

    def save_now(self) -> bool:
        """Write the state before returning.

        Returns:
            False: the file is another worker's by now, or further on; nothing was written.

        Raises:
            CheckpointError: the disk refuses; the old checkpoint is still there.
        """
        self._wait()
        return self._write_state(self._training.state())

    def delete(self) -> None:
        """Remove the file, and what killed writers have left."""
        self._wait()
        remove_checkpoint(self._path)

    def _wait(self) -> None:
        if self._write is not None:
            self._write.result()

    def _try_to_write(self, state: TrainingState) -> None:
        try:
            self._write_state(state)
        except CheckpointError as exc:
            _LOG.warning("%s trains on without a new checkpoint: %s", self._name, exc)

    def _write_state(self, state: TrainingState) -> bool:
        if not self._may_write():
            return False
        written = save_checkpoint(self._path, state, self._key, may_write=self._may_write, rejected=self._rejected)
        if written:
            self._on_written(state.step)
        return written
