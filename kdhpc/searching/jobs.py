"""A study's jobs: which Slurm jobs work for it, and which of its workers have lost their job."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from kdhpc.cluster import slurm
from kdhpc.cluster.slurm import QueuedJob
from kdhpc.config.paths import StudyPaths
from kdhpc.searching.manifest import read_manifests
from kdhpc.study.slots import ActiveLease
from kdhpc.study.status import StudyStatus


def study_jobs(study: str, others: Iterable[str] = (), *, patient: bool = False) -> tuple[QueuedJob, ...]:
    """Jobs in the queue that were launched for a study: its launching jobs and its workers.

    Args:
        study: Its name.
        others: Ids of further jobs, of workers that joined it.
        patient: As for :func:`kdhpc.cluster.slurm.queue`.

    Raises:
        ClusterError: Slurm does not answer.
    """
    launched = _Launched(study, patient=patient)
    joined = {slurm.here(job, patient=patient) for job in others if not job.startswith("local-")}
    # A search on one machine has nothing to ask Slurm for.
    clusters = launched.clusters | {slurm.cluster_of(job) for job in joined}
    return tuple(
        job
        for job in slurm.queue(clusters, patient=patient)
        if {job.job, job.array} & (joined | launched.launchers) or launched.is_worker(job)
    )


def worker_jobs(study: str) -> tuple[QueuedJob, ...]:
    """The study's launched workers that are in the queue; waits longer for Slurm's answer than `study_jobs`.

    Raises:
        ClusterError: Slurm does not answer.
    """
    launched = _Launched(study)
    return tuple(job for job in slurm.queue(launched.workers_clusters, patient=True) if launched.is_worker(job))


def launching_jobs(study: str) -> tuple[QueuedJob, ...]:
    """Jobs in the queue that launched a study's workers, and may host its database.

    Raises:
        ClusterError: Slurm does not answer.
    """
    launchers = _Launched(study, patient=False).launchers
    return tuple(job for job in slurm.queue(map(slurm.cluster_of, launchers)) if job.job in launchers)


def cancel_waiting(jobs: Iterable[QueuedJob]) -> tuple[str, ...]:
    """Cancel those of the jobs that have not started. Returns their ids.

    Raises:
        ClusterError: Slurm does not answer.
    """
    waiting = tuple(job.job for job in jobs if job.state == "PENDING")
    slurm.cancel(waiting)
    return waiting


def mark_lost(status: StudyStatus, jobs: Iterable[QueuedJob]) -> StudyStatus:
    """The status, with each launched worker marked as lost whose job does not run, even if its lease still holds.

    Jobs are named as in the queue.

    Args:
        status: Must be read before the queue: a job that starts between the two would seem to be missing.
        jobs: The study's, of the queue.
    """
    arrays, running = _Launched(status.study).arrays, {job.job for job in jobs if job.state != "PENDING"}
    return replace(
        status,
        workers=tuple(
            replace(worker, job=job, lost=worker.lost or _is_gone(job, arrays, running))
            for worker in status.workers
            for job in (worker.job and slurm.here(worker.job),)
        ),
    )


def vanished(study: str, leases: Iterable[ActiveLease], jobs: Iterable[QueuedJob]) -> tuple[ActiveLease, ...]:
    """Leases of workers that were launched for the study, and whose job is not in the queue any more.

    A requeued job is in the queue, so its lease is not among them: its old process may still write a checkpoint.

    Args:
        study: Its name.
        leases: Who holds its slots. Must be read before the queue, as for :func:`mark_lost`.
        jobs: The queue.
    """
    arrays, queued = _Launched(study).arrays, {job.job for job in jobs}
    return tuple(
        lease
        for lease in leases
        if lease.owner.job is not None and _is_gone(slurm.here(lease.owner.job), arrays, queued)
    )


class _Launched:
    """What was given to Slurm for a study, by the manifests of its launches; jobs are named as in the queue."""

    def __init__(self, study: str, *, patient: bool = True) -> None:
        manifests, paths = read_manifests(study), StudyPaths.of(study)
        jobs = (manifest.job for manifest in manifests if manifest.job is not None)
        self.launchers = {slurm.here(job, patient=patient) for job in jobs}
        on_slurm = [manifest for manifest in manifests if manifest.executor == "slurm"]
        arrays = (array for manifest in on_slurm for array in manifest.arrays)
        self.arrays = {slurm.here(array, patient=patient) for array in arrays}
        folders = {manifest: paths.launch_jobs(manifest.launch) for manifest in on_slurm}
        with_folder = {manifest: folder for manifest, folder in folders.items() if folder.exists()}
        # Resolved: KDHPC_RUNS may have been another path to the same folder when it was launched.
        self.folders = {folder.resolve() for folder in with_folder.values()}
        self.workers_clusters = {slurm.cluster_of(array) for array in self.arrays}
        # Where they went, if the launcher died before it had written down what it submitted.
        self.workers_clusters |= {slurm.elsewhere(manifest.cluster, patient=patient) for manifest in with_folder}
        self.clusters = self.workers_clusters | {slurm.cluster_of(job) for job in self.launchers}

    def is_worker(self, job: QueuedJob) -> bool:
        """Whether it is one of them, even if the launcher died before it had written down what it submitted."""
        return job.array in self.arrays or Path(job.script).parent.resolve() in self.folders


def _is_gone(job: str | None, arrays: set[str], present: set[str]) -> bool:
    """Whether a worker's job belongs to one of these arrays and is not present. False for all other jobs."""
    if job is None:
        return False
    number, at, cluster = job.partition("@")
    return f"{number.partition('_')[0]}{at}{cluster}" in arrays and job not in present
