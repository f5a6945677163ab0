"""Launching on Slurm: as many workers as were asked for; where the launcher stays, no fewer until the end."""

import logging
import time
from collections.abc import Callable

from kdhpc.cluster import slurm
from kdhpc.cluster.hosting import Hosting
from kdhpc.cluster.jobs import vanished, worker_jobs
from kdhpc.cluster.manifest import Manifest, launch_name, read_manifest
from kdhpc.cluster.search import StudyPlan
from kdhpc.cluster.signals import StopSignals
from kdhpc.cluster.submission import submit_workers
from kdhpc.config.document import read_config
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.errors import ClusterError, DatabaseError
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.study.summary import StudyStatus, TrialCounts, read_status

_LOG = logging.getLogger(__name__)
_POLL_S = 2.0
_QUEUE_POLL_S = 10.0


def continued_launch(study: str) -> tuple[Manifest, SearchConfig] | None:
    """What this job launched before it was requeued; none if it was not, or did not come so far."""
    manifest = read_manifest(study, launch_name()) if slurm.num_restarts() else None
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
        self._finished = 0

    @classmethod
    def begin(cls, storage: Storage, plan: StudyPlan, *, trials: int | None) -> "Launch":
        """A new launch, of a study that is made now where it does not exist.

        Raises:
            KdhpcError: as :meth:`kdhpc.cluster.search.StudyPlan.launch`.
        """
        study, manifest = plan.launch(storage, trials=trials)
        return cls(storage, study, manifest, plan.config)

    def top_up(self) -> int:
        """Submit the workers that are missing, counting those of every launch of the study; returns how many.

        Raises:
            ClusterError: Slurm refuses, or does not answer.
            DatabaseError: the database cannot be reached.
        """
        return self._storage.exclusively(self._top_up)

    def watch(self, hosting: Hosting, stop: StopSignals, show: Callable[[StudyStatus], None]) -> bool:
        """Stay until the budget is done: keep the server up, and replace workers that are lost.

        Args:
            hosting: The server.
            stop: Ends the watch.
            show: Called with the status every few seconds.

        Returns:
            True when every slot is done; False when stopped or drained before.

        Raises:
            ClusterError: workers keep being lost without any trial being finished.
        """
        name = self._study.definition.name
        asked = time.monotonic()
        while not stop.requested:
            try:
                hosting.keep_up()
                status = read_status(self._storage, name)
                show(status)
                if status.trials.waiting + status.trials.running == 0:
                    return True
                if status.draining and status.trials.running == 0:
                    return False
                if time.monotonic() - asked > _QUEUE_POLL_S:
                    asked = time.monotonic()
                    self._replace(status.trials)
            except DatabaseError as exc:
                _LOG.warning("%s", exc)
            time.sleep(_POLL_S)
        return False

    def _replace(self, trials: TrialCounts) -> None:
        """Top up, but not for ever."""
        finished = trials.complete + trials.pruned + trials.failed
        if finished > self._finished:
            self._finished, self._replaced = finished, 0
        name, most = self._study.definition.name, self._config.worker.max_failures * self._config.cluster.workers
        if self._replaced > most:
            raise ClusterError(
                f"{self._replaced} workers of study {name!r} were lost, and no trial was finished meanwhile: see their "
                f"logs in {StudyPaths.of(name).launch_jobs(self._manifest.launch)}"
            )
        try:
            self._replaced += self.top_up()
        except ClusterError as exc:
            _LOG.warning("no worker is replaced for now: %s", exc)

    def _top_up(self) -> int:
        name, cluster = self._study.definition.name, self._config.cluster
        holdings = self._study.holdings()
        jobs = worker_jobs(name)
        gone = vanished(name, holdings, jobs)
        if gone:
            self._study.expire(holding.owner for holding in gone)
            _LOG.warning("freed the trials of lost workers: %s", ", ".join(str(holding.number) for holding in gone))
        status = read_status(self._storage, name)
        count = 0 if status.draining else num_missing(status.trials, len(jobs), cluster.workers)
        if count:
            array = submit_workers(name, self._manifest.config, cluster, count)
            self._manifest = self._manifest.with_array(array)
            _LOG.info("submitted job %s: %d workers of study %s", array, count, name)
        return count


def num_missing(trials: TrialCounts, present: int, wanted: int) -> int:
    """How many workers to submit.

    Args:
        trials: Of the study, by state.
        present: Workers in Slurm's queue, running or waiting.
        wanted: Workers to have at once.
    """
    # A running trial has a worker already; another worker would find nothing to do.
    idle = max(0, present - trials.running)
    return max(0, min(wanted - present, trials.waiting - idle))
