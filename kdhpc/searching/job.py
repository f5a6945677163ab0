"""The function that a launched job calls. Importing this module is cheap: a launcher refers to it without torch."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cluster import slurm
from kdhpc.cluster.requeue import requeue_if_out_of_time
from kdhpc.cluster.signals import StopSignals
from kdhpc.errors import DatabaseError
from kdhpc.garbage import collect_seldom
from kdhpc.interpreter import check_modules, write_in_any_encoding
from kdhpc.log import log_to_stderr

if TYPE_CHECKING:
    from kdhpc.study.storage import Storage

_LOG = logging.getLogger(__name__)
# A launching job that hosts the database may itself wait in the queue for a while after it was requeued.
_FIRST_CONTACT_S = 1800.0
_PATIENCE_S = 3600.0


def work(study: str, config_path: str) -> int | None:
    """Run one worker on a frozen config, in a job of its own. Takes and returns primitives only: submitit pickles them.

    Returns:
        Trials that this worker finished; None if it was stopped while the database was away.
    """
    collect_seldom()
    write_in_any_encoding()
    log_to_stderr()
    check_modules()
    logging.getLogger("submitit").propagate = False  # It writes its lines itself.
    # Before the imports, which take seconds: submitit's own handlers would ignore a SIGTERM meanwhile.
    with StopSignals() as stop:
        from kdhpc.config.document import read_config
        from kdhpc.config.schema import SearchConfig
        from kdhpc.searching.worker import run_worker
        from kdhpc.study.study import SharedStudy

        def run() -> int:
            storage = connect(stop)
            config = read_config(SearchConfig, Path(config_path))
            return run_worker(SharedStudy.open(storage, study), config, stop)

        finished = unless_stopped(stop, run)
        requeue_if_out_of_time(stop, is_ours=slurm.is_submitted())
    return finished


def unless_stopped(stop: StopSignals, run: Callable[[], int]) -> int | None:
    """Run. Returns None if a signal came while it waited for the database, which is no failure.

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
