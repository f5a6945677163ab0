"""A study's jobs: which of Slurm's jobs work for it, and which workers have none any more."""

from collections.abc import Iterable
from dataclasses import replace

from kdhpc.cluster import slurm
from kdhpc.cluster.manifest import read_manifests
from kdhpc.cluster.slurm import QueuedJob
from kdhpc.study.slots import Holding
from kdhpc.study.summary import StudyStatus


def study_jobs(study: str, others: Iterable[str] = ()) -> tuple[QueuedJob, ...]:
    """Jobs in the queue that were launched for a study: its launching jobs and its workers.

    Args:
        study: Its name.
        others: Ids of further jobs, of workers that joined it.

    Raises:
        ClusterError: Slurm does not answer.
    """
    known = {job for manifest in read_manifests(study) for job in (manifest.job, *manifest.arrays)}
    known |= {job for job in others if not job.startswith("local-")}
    # A search on one machine has nothing to ask Slurm for.
    return tuple(job for job in slurm.queue() if {job.job, job.array} & known) if known - {None} else ()


def worker_jobs(study: str) -> tuple[QueuedJob, ...]:
    """Of those, the launched workers.

    Raises:
        ClusterError: Slurm does not answer.
    """
    arrays = worker_arrays(study)
    return tuple(job for job in study_jobs(study) if job.array in arrays)


def launching_jobs(study: str) -> tuple[QueuedJob, ...]:
    """Jobs in the queue that launched a study's workers, and may host its database.

    Raises:
        ClusterError: Slurm does not answer.
    """
    launchers = {manifest.job for manifest in read_manifests(study)} - {None}
    return tuple(job for job in slurm.queue() if job.job in launchers) if launchers else ()


def worker_arrays(study: str) -> frozenset[str]:
    """Ids of all job arrays that were launched for a study."""
    return frozenset(array for manifest in read_manifests(study) for array in manifest.arrays)


def cancel_waiting(study: str) -> tuple[str, ...]:
    """Cancel the jobs of a study that have not started; returns their ids.

    Raises:
        ClusterError: Slurm does not answer.
    """
    if not read_manifests(study) or not slurm.is_available():
        return ()
    waiting = tuple(job.job for job in study_jobs(study) if job.state == "PENDING")
    slurm.cancel(waiting)
    return waiting


def mark_lost(status: StudyStatus, jobs: Iterable[QueuedJob]) -> StudyStatus:
    """The status, in which workers without a running job are lost, too, though their leases still stand.

    Args:
        status: Read before the queue: a job that came between would seem to be missing.
        jobs: The study's, of the queue.
    """
    arrays, running = worker_arrays(status.study), {job.job for job in jobs if job.state != "PENDING"}
    workers = tuple(
        replace(worker, lost=worker.lost or _is_gone(worker.job, arrays, running)) for worker in status.workers
    )
    return replace(status, workers=workers)


def vanished(study: str, holdings: Iterable[Holding], jobs: Iterable[QueuedJob]) -> tuple[Holding, ...]:
    """Slots whose worker was launched for the study, and whose job is not in the queue any more.

    A job that was requeued is: its old process may still be writing its checkpoint.

    Args:
        study: Its name.
        holdings: Who holds its slots. Read before the queue, as for :func:`mark_lost`.
        jobs: The queue.
    """
    arrays, queued = worker_arrays(study), {job.job for job in jobs}
    return tuple(holding for holding in holdings if _is_gone(holding.owner.job, arrays, queued))


def _is_gone(job: str | None, arrays: frozenset[str], present: set[str]) -> bool:
    """Whether a worker's job was one of these arrays' and is not present; nothing is known of other jobs."""
    return job is not None and job.partition("_")[0] in arrays and job not in present
