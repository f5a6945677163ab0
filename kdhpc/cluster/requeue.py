"""Putting this job back into Slurm's queue when its time limit is near."""

import logging
import time

from kdhpc.cluster import slurm
from kdhpc.cluster.signals import StopSignals
from kdhpc.errors import ClusterError

_LOG = logging.getLogger(__name__)
_TERM_PATIENCE_S = 60.0
_REQUEUE_PATIENCE_S = 300.0
# How long to wait for SIGTERM after scontrol failed: a requeue that succeeds ends scontrol as a process of this job.
# The same wait lies between two tries.
_TOGETHER_S = 5.0
# Slurm's words for a job that it never requeues: one of salloc or srun; one that was submitted with --no-requeue.
_NEVER_REQUEUED = ("Only batch jobs", "Requested operation is presently disabled")


def requeue_if_out_of_time(stop: StopSignals, *, is_ours: bool) -> bool:
    """Put this job back into Slurm's queue, if this process stops because the job's time limit is near.

    Args:
        stop: The signals that this process has received.
        is_ours: Whether this process is all that the job runs. A script that runs other things as well would repeat
            them, so its job is not requeued.

    Returns:
        Whether the job was requeued.
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
    # Logged beforehand: the requeue ends all processes of this job, so that nothing could be logged afterwards.
    _LOG.info("requeueing job %s, which goes on later", job)
    deadline = time.monotonic() + _REQUEUE_PATIENCE_S
    while True:
        try:
            slurm.requeue_own_job()
            break
        except ClusterError as exc:
            # The requeue may have succeeded, and ended scontrol before it could report that.
            if _is_ended_within(stop, _TOGETHER_S):
                return True
            if time.monotonic() > deadline or any(words in str(exc) for words in _NEVER_REQUEUED):
                _LOG.error("not requeued: %s", exc)
                return False
            _LOG.warning("not requeued yet, trying again: %s", exc)
    # If this process ended by itself before Slurm's signal, the job would count as completed.
    _is_ended_within(stop, _TERM_PATIENCE_S)
    return True


def _is_ended_within(stop: StopSignals, patience_s: float) -> bool:
    """Wait for SIGTERM, with which Slurm ends a job; whether it came in time."""
    deadline = time.monotonic() + patience_s
    while not stop.terminated and time.monotonic() < deadline:
        time.sleep(0.1)
    return stop.terminated
