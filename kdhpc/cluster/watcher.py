"""How submitit finds out that a job has ended without a result: the job is not in Slurm's queue any more."""

import logging
import time

from submitit.slurm.slurm import SlurmInfoWatcher

from kdhpc.cluster import slurm
from kdhpc.cluster.sbatch import Submissions
from kdhpc.errors import ClusterError

_LOG = logging.getLogger(__name__)
_ENDED = "ENDED"


class QueueWatcher(SlurmInfoWatcher):
    """Asks ``squeue`` for the states of all jobs at once.

    submitit's own watcher asks ``sacct``. On a cluster without accounting it would wait for every job for ever. A
    requeued job that waits to be started again is in the queue, so it has not ended.

    Args:
        made: The jobs that were submitted, with their clusters.
    """

    def __init__(self, made: Submissions) -> None:
        super().__init__()
        self._made = made

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether a job has left the queue."""
        return self.get_state(job_id, mode=mode) == _ENDED

    def update(self) -> None:
        """Read the queue. If Slurm does not answer, all states stay as they are."""
        self._num_calls += 1
        self._last_status_check = time.time()
        try:
            clusters = {slurm.cluster_of(job) for job in self._made.jobs.values()}
            # Numbers alone, as submitit has them: all jobs of a sweep are on one cluster.
            states = {job.job.partition("@")[0]: job.state for job in slurm.queue(clusters)}
        except ClusterError as exc:
            _LOG.warning("%s; asking again later", exc)
            return
        self._info_dict = {job: {"State": states.get(job, _ENDED)} for job in self._registered}
