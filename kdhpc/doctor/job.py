"""The same checks on a node: what a job sees of disks, database and GPU may differ from what this machine sees."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kdhpc.cluster import slurm
from kdhpc.cluster.sbatch import submissions
from kdhpc.config.paths import doctor_dir
from kdhpc.config.schema import ClusterConfig
from kdhpc.doctor.examination import examine
from kdhpc.doctor.finding import Finding, fault, from_document, ok
from kdhpc.errors import ClusterBusyError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.folders import private_folder
from kdhpc.searching.submission import slurm_executor

_ANSWER, _LOCK = "answer.json", "lock"
_LOOK_EVERY_S = 2.0
_SEEN_LATE_S = 90.0
"""A shared file system may take so long to show what another machine has written."""
_TIME_MIN = 15


def examine_on_a_node(cluster: ClusterConfig, tell: Callable[[str], None], *, quick: bool) -> Iterator[Finding]:
    """Submit the checks as a job like a worker's, wait for it, and give what it found.

    Args:
        cluster: What the job asks for; its time limit is a quarter of an hour at most.
        tell: Is told how the job is, when that changes.
        quick: As for :func:`kdhpc.doctor.examination.examine`.

    Raises:
        ClusterError: there is no Slurm here, or it does not take the job.
        StorageError: the job's folder cannot be written.
    """
    folder = private_folder(doctor_dir(time.strftime("%Y%m%d-%H%M%S")))
    time_min = min(cluster.time_min, _TIME_MIN)
    asked = dataclasses.replace(
        cluster, time_min=time_min, workers=1, signal_delay_s=min(cluster.signal_delay_s, 30 * time_min)
    )
    lock = FileLock.take(folder / _LOCK)
    if lock is None:
        raise StorageError(f"{folder / _LOCK} is locked by another process")
    with lock:
        job = _submit(folder, asked, quick=quick)
        tell(f"job {job} submitted; its log is in {folder}")
        try:
            yield from _answer(folder, job, tell)
        except BaseException:
            slurm.cancel([job])
            raise


def _submit(folder: Path, cluster: ClusterConfig, *, quick: bool) -> str:
    with submissions(cluster.python) as made:
        slurm_executor(folder, "kdhpc-doctor", cluster).submit(answer_from_a_node, str(folder), quick)
    (job,) = made.jobs.values()
    return slurm.here(job)


def answer_from_a_node(folder: str, quick: bool) -> None:
    """What the job runs: writes what it finds beside its log.

    Args:
        folder: The job's; the process that has submitted it holds a lock there.
        quick: As for :func:`kdhpc.doctor.examination.examine`.
    """
    found = [*examine(quick=quick), _check_lock(Path(folder))]
    write_whole(Path(folder) / _ANSWER, json.dumps([dataclasses.asdict(each) for each in found]))


def _check_lock(folder: Path) -> Finding:
    name = "locks between machines"
    lock = FileLock.take(folder / _LOCK)
    if lock is None:
        return ok(name, f"{folder}: a lock of the machine that submitted this job keeps this node out")
    lock.close()
    why = f" ({lock.problem})" if lock.problem else ""
    return fault(
        name,
        f"{folder}: a lock of the machine that submitted this job does not keep this node out{why}",
        "start the database on one machine only, or name a folder of another file system in KDHPC_RUNS",
    )


def _answer(folder: Path, job: str, tell: Callable[[str], None]) -> Iterator[Finding]:
    """What the job has found, as soon as it is there; or that it never will be."""
    told, gone_since = "", None
    while (answer := _read(folder / _ANSWER)) is None:
        condition = _condition(job)
        if condition is None:
            gone_since = gone_since or time.monotonic()
            if time.monotonic() - gone_since > _SEEN_LATE_S:
                yield fault("job", f"{job} ended and left no answer in {folder}: {_last_words(folder)}")
                return
        elif condition != told:
            tell(f"job {job} is {condition}")
            told, gone_since = condition, None
        time.sleep(_LOOK_EVERY_S)
    yield from map(from_document, answer)


def _condition(job: str) -> str | None:
    """How the job is, by the queue; None: it is not there any more."""
    try:
        return next((queued.condition for queued in slurm.queue((slurm.cluster_of(job),)) if queued.job == job), None)
    except ClusterBusyError:
        return "not to be seen: Slurm does not answer"


def _read(path: Path) -> list[dict[str, str]] | None:
    # A listing makes NFS look again for a name that was not there a moment ago.
    if path not in path.parent.iterdir():
        return None
    found: list[dict[str, str]] = json.loads(read_whole(path))
    return found


def _last_words(folder: Path) -> str:
    logs = sorted(folder.glob("*.out"))
    lines = [line for log in logs for line in read_whole(log).decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its log is empty"
