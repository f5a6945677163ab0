"""A tracker's process, as training sees it."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import IO

from kdhpc.config.schema import TrackingConfig
from kdhpc.interpreter import child_python_words
from kdhpc.tracking.messages import Answer, parse_answer

_DEFAULTS: Mapping[str, str] = {
    # Nobody is told of it.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    # Nothing leaves this cluster.
    "WANDB_MODE": "offline",
    "WANDB_CONSOLE": "off",
    "WANDB_SILENT": "true",
    # MLflow 3.7 and later refuse a store of files unless told: see docs/tracking.md for why it is one.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""What a tracker finds in its environment where the user has not set it."""
_ALWAYS: Mapping[str, str] = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
"""A tracker takes nothing of what trains."""


class TrackerProcess:
    """Starts it. It is in a session of its own: a terminal's Ctrl-C does not reach it.

    Args:
        config: Names the tracker.
        heard: Called with each answer, in a thread.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, config: TrackingConfig, heard: Callable[[Answer], None]) -> None:
        self._heard = heard
        self._process = subprocess.Popen(
            [*child_python_words(), "-m", "kdhpc.tracking.process", config.tracker, str(config.wait_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**_DEFAULTS, **os.environ, **_ALWAYS},
            start_new_session=True,
        )
        self._stdin, self._stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        self._reader = threading.Thread(target=self._read, name="tracker's answers", daemon=True)
        self._reader.start()

    def write(self, line: bytes) -> None:
        """Give it a message. This may take for ever, and ends with an error if it is killed meanwhile.

        Raises:
            OSError: it has ended.
        """
        self._stdin.write(line)
        self._stdin.flush()

    def finish(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended, and all that it said is heard; False: it has not ended in time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(timeout_s)
        return True

    def kill(self) -> None:
        """End it at once, and what it has started and left in its session."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        with self._stdout:
            for line in self._stdout:
                with contextlib.suppress(Exception):  # A half line of one that was killed.
                    self._heard(parse_answer(line))


def _pipe(file: IO[bytes] | None) -> IO[bytes]:
    assert file is not None, "it was asked for"
    return file
