"""What a launched job calls. Imports nothing heavy: a launcher names :func:`work` without importing torch."""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cluster import slurm
from kdhpc.cluster.signals import StopSignals
from kdhpc.errors import ClusterError, DatabaseError
from kdhpc.interpreter import check_modules, write_in_any_encoding
from kdhpc.printing import printable_stream

if TYPE_CHECKING:
    from kdhpc.study.storage import Storage

_LOG = logging.getLogger(__name__)
# A launching job that hosts the database may itself wait in the queue for a while after it was requeued.
_FIRST_CONTACT_S = 1800.0
_PATIENCE_S = 3600.0
_TERM_PATIENCE_S = 60.0
_REQUEUE_PATIENCE_S = 300.0
# How long after scontrol, which dies with this job, SIGTERM may come to this process; and between two tries.
_TOGETHER_S = 5.0
# Slurm's words for a job that it never requeues: one of salloc or srun; one that was submitted with --no-requeue.
_NEVER_REQUEUED = ("Only batch jobs", "Requested operation is presently disabled")


def work(study: str, config_path: str) -> int | None:
    """Run one worker on a frozen config, in a job of its own. Takes and returns primitives only: submitit pickles them.

    Returns:
        Trials that this worker finished; none if it was stopped while the database was away.
    """
    write_in_any_encoding()
    log_to_stderr()
    check_modules()
    logging.getLogger("submitit").propagate = False  # It writes its lines itself.
    # Before the imports, which take seconds: submitit's own handlers would ignore a SIGTERM meanwhile.
    with StopSignals() as stop:
        from kdhpc.cluster.worker import run_worker
        from kdhpc.config.document import read_config
        from kdhpc.config.schema import SearchConfig
        from kdhpc.study.study import SharedStudy

        def run() -> int:
            storage = connect(stop)
            config = read_config(SearchConfig, Path(config_path))
            return run_worker(SharedStudy.open(storage, study), config, stop)

        finished = unless_stopped(stop, run)
        requeue_if_out_of_time(stop, is_ours=slurm.is_submitted())
    return finished


def unless_stopped(stop: StopSignals, run: Callable[[], int]) -> int | None:
    """Run; none if the database was away and was not waited for any longer because a signal came: that is no failure.

    Raises:
        DatabaseError: the database stayed away, without any signal.
    """
    try:
        return run()
    except DatabaseError as exc:
        if not stop.requested:
            raise
        _LOG.warning("stopped while the database was away: %s", exc)
        return None


def connect(stop: StopSignals) -> "Storage":
    """Reach the database: with much patience in a Slurm job, as the server may just be moving.

    Raises:
        DatabaseError: it cannot be reached.
    """
    from kdhpc.study.storage import Storage

    if not slurm.in_job():
        return Storage.connect(should_stop=lambda: stop.requested)
    return Storage.connect(first_contact_s=_FIRST_CONTACT_S, patience_s=_PATIENCE_S, should_stop=lambda: stop.requested)


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


def log_to_stderr() -> None:
    """Log lines of a worker: when, how grave, what."""
    logging.basicConfig(
        stream=printable_stream(sys.stderr),
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )


def job_id() -> str | None:
    """What this process is part of: a Slurm job (see :func:`kdhpc.cluster.slurm.own_job`), or ``local-<id>``."""
    local = os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    return slurm.own_job() or (f"local-{local}" if local else None)
