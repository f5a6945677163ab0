"""The logs of a study's workers: which there are, whose they are, and which of their lines are about one trial."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdhpc.config.paths import StudyPaths
from kdhpc.errors import StorageError, UsageError, nearest
from kdhpc.files.storage_errors import patiently, storage_error
from kdhpc.study.attempts import KnownWorker, TrialAttempt
from kdhpc.study.numbers import trial_words

_NAME = re.compile(r"(\d+(?:_\d+)?)_\d+_log\.out")
_LOG_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ [A-Z]+ (?P<message>.*)|submitit [A-Z]+ \(.*?\) - (?P<own>.*)"
)
_ABOUT = re.compile(r"(?:the lease of slot \d+ \()?(?P<trial>(?:given )?trial \d+)\b(?P<rest>.*)")
_ENDS = re.compile(r": (?:complete|pruned|diverged|interrupted)$| crashed$|: is given back|, it is given back$")
# The first lines of a worker; another one's may stand before them, where a job was requeued.
_BEGINS = re.compile(r"device .*, precision .*, mode |Starting with JobEnvironment")
_CLOCKS_S = 120.0
"""By so much the clocks of the database and of a file server may differ."""


@dataclass(frozen=True, kw_only=True)
class WorkerLog:
    """A file that a worker writes."""

    path: Path
    """The file."""
    job: str
    """Number of its job, as ``17_3``; of a worker of `kdhpc search` that of a process."""
    launch: str
    """The launch that it belongs to."""
    size: int
    """In bytes."""
    modified: float
    """When it was last written, in seconds since 1970, by the file system's clock."""

    def is_of(self, job: str | None) -> bool:
        """Whether a job, as the database names it, writes it: ``17_3@gpu``, ``local-4242``."""
        return job is not None and job_number(job) == self.job


def job_number(job: str) -> str:
    """The part of a job's name that its log's name has."""
    return job.removeprefix("local-").partition("@")[0]


def read_logs(study: str) -> tuple[WorkerLog, ...]:
    """The logs that are there, by when they were last written; none where nothing was launched.

    Raises:
        StorageError: the file system refuses.
    """
    folder = StudyPaths.of(study).jobs
    try:
        found = patiently(lambda: list(_logs_in(folder)))
    except OSError as exc:
        raise storage_error(exc, folder, "read") from exc
    return tuple(sorted(found, key=lambda log: (log.modified, log.path)))


def _logs_in(folder: Path) -> Iterable[WorkerLog]:
    try:
        launches = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for launch in launches:
        for entry in os.scandir(launch):
            if (name := _NAME.fullmatch(entry.name)) and entry.is_file():
                stat = entry.stat()
                yield WorkerLog(
                    path=Path(entry),
                    job=name[1],
                    launch=launch.name,
                    size=stat.st_size,
                    modified=stat.st_mtime,
                )


def logs_of_attempt(logs: Iterable[WorkerLog], attempt: TrialAttempt) -> tuple[WorkerLog, ...]:
    """Those that the worker of an attempt wrote; of processes, whose numbers come again, those written since then."""
    since = 0.0 if attempt.began is None else attempt.began - _CLOCKS_S
    return tuple(log for log in logs if log.is_of(attempt.job) and log.modified >= since)


def logs_of_worker(logs: Sequence[WorkerLog], workers: Sequence[KnownWorker], name: str) -> tuple[WorkerLog, ...]:
    """The logs of the worker that a name means.

    Args:
        logs: Of the study.
        workers: That its trials remember; empty: not known.
        name: A job as `kdhpc status` shows it, or its number; or ``HOST:PID``, ``PID`` or ``HOST`` of its process.

    Raises:
        UsageError: no worker has that name, or several have; the message says which there are.
        StorageError: its log is not there.
    """
    named = [worker for worker in workers if name in _names(worker)]
    jobs = {worker.job for worker in named if worker.job is not None}
    if not named:
        jobs = {log.job for log in logs if name in (log.job, f"local-{log.job}", str(log.path), log.path.name)}
    if len(jobs) > 1:
        raise UsageError(f"several workers are '{name}': choose one of the jobs {', '.join(sorted(jobs))}")
    if not named and not jobs:
        known = {log.job for log in logs} | {_shown(worker) for worker in workers}
        raise UsageError(f"no worker '{name}' is known: {nearest(name, known)}")
    found = tuple(log for log in logs if any(log.is_of(job) for job in jobs))
    if not found and not jobs:
        raise StorageError(
            f"worker {_shown(named[0])} was started by hand (`kdhpc worker`): it writes to where it was started"
        )
    if not found:
        raise StorageError(f"the log of worker {_shown(named[0])} is not there any more")
    return found


def _names(worker: KnownWorker) -> set[str]:
    short = worker.host.partition(".")[0]
    names = {worker.host, short, str(worker.pid), f"{worker.host}:{worker.pid}", f"{short}:{worker.pid}"}
    return names if worker.job is None else names | {worker.job, job_number(worker.job)}


def _shown(worker: KnownWorker) -> str:
    process = f"{worker.host}:{worker.pid}"
    return process if worker.job is None else f"{worker.job} ({process})"


class TrialLines:
    """Which lines of a worker's log are about a trial: by what the worker writes where it takes and leaves one.

    Lines between those two that name no trial belong to it; where several trial runners share a worker, they may be
    about another one. So do lines that go on what was logged, as of a traceback.

    Args:
        number: Of the trial.
    """

    def __init__(self, number: int) -> None:
        self._words = trial_words(number)
        self._is_inside = self._was_taken = False

    def takes(self, line: str) -> bool:
        """Whether the next line is about the trial."""
        logged = _LOG_LINE.fullmatch(line)
        if logged is None:
            return self._was_taken
        message = logged["message"] or logged["own"] or ""
        about = _ABOUT.match(message)
        if about is None:
            if _BEGINS.match(message):
                self._is_inside = False
            self._was_taken = self._is_inside
        elif about["trial"] == self._words:
            self._was_taken = True
            self._is_inside = not _ENDS.search(about["rest"])
        else:
            self._was_taken = False
        return self._was_taken
