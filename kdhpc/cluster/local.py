"""Workers as processes of this machine, through submitit's local executor."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import submitit

from kdhpc.cluster.job import work
from kdhpc.config.paths import StudyPaths
from kdhpc.errors import ClusterError

_YEAR_MIN = 60 * 24 * 365  # submitit's local executor always has a time limit; this machine has none.


class LocalFleet:
    """Worker processes that outlive neither their study nor a request to stop.

    Args:
        study: Name of the study.
        config: Frozen config that the workers read.
    """

    def __init__(self, study: str, config: Path) -> None:
        self._study, self._config = study, config
        self._jobs: list[submitit.Job[int]] = []
        self._gpus = _visible_gpus()
        self._log_folder = StudyPaths.of(study).jobs

    def start(self, count: int) -> None:
        """Start more workers, over the visible GPUs in turn."""
        for _ in range(count):
            gpus = self._gpus[len(self._jobs) % len(self._gpus) :][:1] if self._gpus else []
            executor = submitit.LocalExecutor(self._log_folder)
            executor.update_parameters(
                timeout_min=_YEAR_MIN, stderr_to_stdout=True, gpus_per_node=len(gpus), visible_gpus=gpus
            )
            with _ignoring_interrupts():
                self._jobs.append(executor.submit(work, self._study, str(self._config)))

    def running(self) -> int:
        """Workers whose process is alive."""
        return sum(not job.done() for job in self._jobs)

    def stop(self) -> None:
        """Ask every worker to checkpoint its trial and exit."""
        for job in self._jobs:
            if not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)

    def failures(self) -> list[str]:
        """One line for each worker that ended with an error or was killed, with its log."""
        return [
            f"worker {job.job_id}: {_verdict(job)} (log: {job.paths.stdout})"
            for job in self._jobs
            if job.done() and _verdict(job)
        ]


def _verdict(job: "submitit.Job[int]") -> str:
    """How a worker that has ended failed; empty: it did not."""
    if not job.paths.result_pickle.exists():
        return "was killed, or died before it could say why"
    error = job.exception()
    return str(error).strip().splitlines()[-1] if error is not None else ""


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Children started here ignore Ctrl-C, which a terminal sends to them too: submitit's controller would answer it by
    killing its worker within a second. The launcher passes the wish on as SIGTERM instead."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _visible_gpus() -> list[int]:
    """Indices of this machine's GPUs, as far as CUDA_VISIBLE_DEVICES lets them be seen.

    Raises:
        ClusterError: CUDA_VISIBLE_DEVICES holds something else than indices; submitit's local executor takes no other.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return sorted(int(path.name.removeprefix("nvidia")) for path in Path("/dev").glob("nvidia[0-9]*"))
    try:
        return [int(index) for index in visible.split(",") if index]
    except ValueError as exc:
        raise ClusterError(f"CUDA_VISIBLE_DEVICES={visible!r}: local workers need indices such as 0,1") from exc
