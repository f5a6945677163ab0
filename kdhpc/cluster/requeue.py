"""Putting this job back into Slurm's queue when its time limit is near."""

import logging
import time

from kdhpc.cluster import slurm
from kdhpc.cluster.signals import StopSignals
from kdhpc.errors import ClusterError

_LOG = logging.getLogger(__name__)
_TERM_PATIENCE_S = 60.0
_REQUEUE_PATIENCE_S = 300.0
# How long after scontrol, which dies with this job, SIGTERM may come to this process; and between two tries.
_TOGETHER_S = 5.0
# Slurm's words for a job that it never requeues: one of salloc or srun; one that was submitted with --no-requeue.
_NEVER_REQUEUED = ("Only batch jobs", "Requested operation is presently disabled")


def requeue_if_out_of_time(stop: StopSignals, *, is_ours: bool) -> bool:
    """Put this job back into Slurm's queue if the announcement of its time limit is why it stops.

    Args:
        stop: What came.
        is_ours: The job is this process and nothing else. A script that does more would begin again.

    Returns:
        Whether it was requeued.
    """
    if not stop.out_of_time or not slurm.in_job():
        return False
    try:
        job = slurm.here(slurm.own_job() or "")
    except ClusterError as exc:
        _LOG.error("not requeued: %s", exc)
        return False
    if not is_ours:
        _LOG.info("job %s is not requeued: it is not one of kdhpc's own", job)
        return False
    # Before it is done: Slurm then ends all of this job's processes, and the log with them.
    _LOG.info("requeueing job %s, which goes on later", job)
    deadline = time.monotonic() + _REQUEUE_PATIENCE_S
    while True:
        try:
            slurm.requeue_own_job()
            break
        except ClusterError as exc:
            # The requeue may have ended scontrol, which is one of the job's processes, before it could say so.
            if _is_ended_within(stop, _TOGETHER_S):
                return True
            if time.monotonic() > deadline or any(words in str(exc) for words in _NEVER_REQUEUED):
                _LOG.error("not requeued: %s", exc)
                return False
            _LOG.warning("not requeued yet, trying again: %s", exc)
    # A job that ends before Slurm ends it would count as completed.
    _is_ended_within(stop, _TERM_PATIENCE_S)
    return True


def _is_ended_within(stop: StopSignals, patience_s: float) -> bool:
    """Wait for SIGTERM, by which Slurm ends a job."""
    deadline = time.monotonic() + patience_s
    while not stop.terminated and time.monotonic() < deadline:
        time.sleep(0.1)
    return stop.terminated
