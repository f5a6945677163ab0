"""Launching on Slurm: submits the workers that are missing. A launcher that stays replaces lost ones."""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable

from kdhpc.cluster import slurm
from kdhpc.cluster.signals import StopSignals
from kdhpc.cluster.slurm import QueuedJob
from kdhpc.config.document import read_config
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.errors import ClusterBusyError, ClusterError, DatabaseError, StorageError
from kdhpc.searching.jobs import cancel_waiting, vanished, worker_jobs
from kdhpc.searching.manifest import Manifest, continued_manifest
from kdhpc.searching.plan import StudyPlan
from kdhpc.searching.server_host import ServerHost
from kdhpc.searching.submission import submit_workers
from kdhpc.study.numbers import trial_label
from kdhpc.study.status import StudyStatus, read_status
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.words import counted

_LOG = logging.getLogger(__name__)
_POLL_S = 2.0
_QUEUE_POLL_S = 10.0
# A worker that starts has a trial, and one that ends has left the queue, in less.
_SETTLE_S = 45.0
_FAREWELL_S = 90.0


def continued_launch(study: str) -> tuple[Manifest, SearchConfig] | None:
    """What this command launched before its job was requeued; None if it was not, or did not come so far.

    Raises:
        ClusterError, StorageError: as :func:`kdhpc.searching.manifest.continued_manifest`.
        ConfigError: its config cannot be read.
    """
    manifest = continued_manifest(study)
    return None if manifest is None else (manifest, read_config(SearchConfig, manifest.config))


class Launch:
    """One launch of a study's workers.

    Args:
        storage: The database; its calls should not wait for long, as this process may be what brings it back.
        study: The study.
        manifest: What this launch has submitted already.
        config: The frozen config.
    """

    def __init__(self, storage: Storage, study: SharedStudy, manifest: Manifest, config: SearchConfig) -> None:
        self._storage = storage
        self._study = study
        self._manifest = manifest
        self._config = config
        self._replaced = 0
        self._ended_well = 0
        self._asked = -math.inf
        self._told_held: set[str] = set()

    @classmethod
    def begin(cls, storage: Storage, plan: StudyPlan, *, trials: int | None) -> "Launch":
        """A new launch, of a study that is made now where it does not exist.

        Raises:
            KdhpcError: as :meth:`kdhpc.searching.plan.StudyPlan.launch`.
        """
        study, manifest = plan.launch(storage, trials=trials)
        return cls(storage, study, manifest, plan.config)

    def top_up(self) -> int:
        """Submit the workers that are missing, counting those of every launch of the study; returns how many.

        Raises:
            ClusterError: Slurm refuses, or does not answer.
            DatabaseError: the database cannot be reached.
        """
        self._asked = time.monotonic()
        return self._storage.exclusively(lambda: self._top_up(is_last=False))

    def top_up_or_later(self) -> int:
        """As ``top_up``, where :meth:`watch` follows, which asks a controller again that is busy now.

        Raises:
            ClusterError: Slurm refuses.
            DatabaseError: the database cannot be reached.
        """
        try:
            return self.top_up()
        except ClusterBusyError as exc:
            _LOG.warning("no worker is submitted for now, trying again: %s", exc)
            return 0

    def top_up_and_leave(self, stop: StopSignals) -> int:
        """As ``top_up``, where nobody will look again: first, workers that just start or end have a while to do so.

        Raises:
            ClusterError: Slurm refuses, or does not answer.
            DatabaseError: the database cannot be reached.
        """
        deadline, told = time.monotonic() + _SETTLE_S, False
        while (unsettled := self._unsettled()) and time.monotonic() < deadline and not stop.requested:
            if not told:
                _LOG.info("waiting for jobs that have no trial to get one or to end: %s", " ".join(unsettled))
            told = True
            time.sleep(_POLL_S)
        return self._storage.exclusively(lambda: self._top_up(is_last=True))

    def watch(self, server_host: ServerHost, stop: StopSignals, show: Callable[[StudyStatus], None]) -> bool:
        """Stay until the budget is done: keep the server up, replace workers that are lost; in the end, send them home.

        Args:
            server_host: The server.
            stop: Ends the watch.
            show: Called with the status every few seconds.

        Returns:
            True when every slot is done; False when stopped or drained before.

        Raises:
            ClusterError: workers keep being lost without any trial ending well.
        """
        is_done = self._watch(server_host, stop, show)
        if server_host.leaves_none and not stop.requested:
            self._send_home(stop)
        return is_done

    def _watch(self, server_host: ServerHost, stop: StopSignals, show: Callable[[StudyStatus], None]) -> bool:
        name = self._study.definition.name
        while not stop.requested:
            try:
                server_host.keep_up()
                status = read_status(self._storage, name, uid=self._study.uid)
                show(status)
                if status.unfinished == 0:
                    return True
                if status.draining and status.running == 0:
                    return False
                if time.monotonic() - self._asked > _QUEUE_POLL_S:
                    self._replace(status)
            except DatabaseError as exc:
                _LOG.warning("%s", exc)
            time.sleep(_POLL_S)
        return False

    def _replace(self, status: StudyStatus) -> None:
        """Top up, unless too many workers in a row were lost. A launch's first workers are no replacements."""
        if status.ended_well > self._ended_well:
            self._ended_well, self._replaced = status.ended_well, 0
        name, most = self._study.definition.name, self._config.worker.max_failures * self._config.cluster.workers
        if self._replaced > most:
            raise ClusterError(
                f"{counted(self._replaced, 'worker')} of study {name!r} had to be replaced, and no trial ended well "
                f"meanwhile: see the logs in {StudyPaths.of(name).launch_jobs(self._manifest.launch)}"
            )
        is_first = not self._manifest.arrays
        try:
            count = self.top_up()
        except ClusterError as exc:
            _LOG.warning("no worker is submitted for now, trying again: %s", exc)
            return
        self._replaced += 0 if is_first else count

    def _top_up(self, *, is_last: bool) -> int:
        name, cluster = self._study.definition.name, self._config.cluster
        leases = self._study.active_leases()
        jobs = worker_jobs(name)
        gone = vanished(name, leases, jobs)
        if gone:
            self._study.expire(lease.owner for lease in gone)
            freed = ", ".join(trial_label(lease.number) for lease in gone)
            _LOG.warning("freed the trials of lost workers: %s", freed)
        status = read_status(self._storage, name, uid=self._study.uid)
        # A job that ends may be one that comes back, and then replacing it would be one too many: that is seen later.
        present = [job for job in jobs if job.state != "COMPLETING"] if is_last else jobs
        idle = without_trial(present, status)
        self._tell_of_held(jobs, status)
        count = num_missing(status, present=len(present), idle=len(idle), wanted=cluster.workers)
        if count:
            array = submit_workers(name, self._manifest.config, cluster, count)
            shown = slurm.here(array)
            try:
                self._manifest = self._manifest.with_array(array)
            except StorageError as exc:
                _LOG.warning("job %s is not written down, it is known by its script's folder: %s", shown, exc)
            _LOG.info("submitted job %s: %d workers of study %s", shown, count, name)
        return count

    def _tell_of_held(self, jobs: Collection[QueuedJob], status: StudyStatus) -> None:
        """Say, once for the same jobs, that a study with trials to do has workers that all wait for somebody."""
        held = {job.job for job in jobs if job.never_starts}
        if held and len(held) == len(jobs) and status.waiting and held != self._told_held:
            self._told_held = held
            name = status.study
            reasons = ", ".join(sorted({job.reason for job in jobs}))
            arrays = " ".join(sorted({job.array for job in jobs}))
            _LOG.warning(
                "all %d workers of study %s are held (%s), so no trial is trained: `scontrol release %s` lets them "
                "start, `kdhpc stop --study %s` cancels them",
                *(len(held), name, reasons, arrays, name),
            )

    def _unsettled(self) -> list[str]:
        """Workers' jobs that run, and may be about to take a trial or to end. Empty where no trial waits."""
        status = read_status(self._storage, self._study.definition.name, uid=self._study.uid)
        if status.waiting == 0:
            return []
        jobs = worker_jobs(self._study.definition.name)
        return [job.job for job in without_trial(jobs, status) if job.state != "PENDING"]

    def _send_home(self, stop: StopSignals) -> None:
        """Let the workers end, as their database is about to; cancel those that wait. Later launches' workers stay."""
        name, deadline = self._study.definition.name, time.monotonic() + _FAREWELL_S
        try:
            jobs = worker_jobs(name)
            leaving = {job.job for job in jobs}
            while jobs and time.monotonic() < deadline and not stop.requested:
                cancelled = cancel_waiting(jobs)
                if cancelled:
                    _LOG.info("cancelled, they had not started: %s", " ".join(cancelled))
                time.sleep(_POLL_S)
                jobs = tuple(job for job in worker_jobs(name) if job.job in leaving)
            if jobs and not stop.requested:
                slurm.cancel(job.job for job in jobs)
                _LOG.warning("cancelled, they did not end: %s", " ".join(job.job for job in jobs))
        except ClusterError as exc:
            _LOG.warning("workers may be left that wait for the database: %s", exc)


def without_trial(jobs: Iterable[QueuedJob], status: StudyStatus) -> list[QueuedJob]:
    """Workers' jobs that held no slot when the status was read."""
    busy = {slurm.here(worker.job) for worker in status.workers if worker.job and not worker.lost}
    return [job for job in jobs if job.job not in busy]


def num_missing(status: StudyStatus, *, present: int, idle: int, wanted: int) -> int:
    """How many workers to submit.

    Args:
        status: Of the study.
        present: Workers in Slurm's queue, running or waiting.
        idle: Those of them that have no trial, and will take one.
        wanted: Workers to have at once.
    """
    if status.draining:
        return 0
    return max(0, min(wanted - present, status.waiting - idle))
