import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


class Worker:
    """A process of ``worker.py``."""

    def __init__(self, study: str, epoch_s: float, lease_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.study.worker", study, str(epoch_s), str(lease_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def next_line(self) -> dict:
        """The next thing that it tells."""
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def rest(self) -> list[dict]:
        """What it tells until its end, which must be a good one."""
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        assert "Traceback" not in err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def start_worker(storage: object) -> Iterator[Callable[..., Worker]]:
    """Starts workers on the test's database; they are killed at its end if they still run."""
    started: list[Worker] = []

    def start(study: str, *, epoch_s: float = 0.0, lease_s: float = 60.0) -> Worker:
        started.append(Worker(study, epoch_s, lease_s))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
