"""``kdhpc stop``: let a study's workers checkpoint and exit."""

import argparse
import sys
import time
from typing import TYPE_CHECKING

from kdhpc.cli.study_argument import add_study_argument, chosen_study
from kdhpc.words import counted

if TYPE_CHECKING:
    from kdhpc.study.storage import Storage

_DESCRIPTION = """\
Asks all workers of a study, wherever they run, to checkpoint their trials and to exit, and waits until they have. They
are asked through the database: it may take as long as worker.renew_s and a step. Jobs that wait in Slurm's queue are
cancelled, those that run have a few minutes to end. `kdhpc launch` or `kdhpc search` goes on with the study later.
"""
_POLL_S = 1.0
_PATIENCE_S = 5.0
_JOBS_PATIENCE_S = 180.0
_EPILOG = """\
examples:
  kdhpc stop --study mine
  kdhpc stop --study mine --no-wait     ask them, and return at once
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "stop",
        help="let a study's workers checkpoint and exit",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    parser.add_argument("--no-wait", action="store_true", help="ask the workers to stop, and return at once")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Ask, and wait."""
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy

    storage = Storage.connect(patience_s=_PATIENCE_S)
    study = SharedStudy.open(storage, chosen_study(args, storage))
    study.drain()
    _cancel_waiting(study.definition.name)
    if not args.no_wait:
        _await_trials(storage, study.definition.name)
        _await_jobs(study.definition.name)
    return 0


def _cancel_waiting(name: str) -> None:
    from kdhpc.errors import ClusterError
    from kdhpc.searching.jobs import cancel_waiting, study_jobs

    try:
        cancelled = cancel_waiting(study_jobs(name, patient=True))
    except ClusterError as exc:
        _tell(f"jobs that wait in the queue are not cancelled: {exc}")
        return
    if cancelled:
        _tell(f"cancelled, they had not started: {' '.join(cancelled)}")


def _await_trials(storage: "Storage", name: str) -> None:
    """Until no worker holds a trial, or the job that hosts the database has ended: it does when nobody holds one."""
    from kdhpc.errors import DatabaseError
    from kdhpc.study.status import read_status

    try:
        while running := read_status(storage, name).running:
            _tell(f"{counted(running, 'trial')} to be checkpointed")
            time.sleep(_POLL_S)
    except DatabaseError:
        if not storage.address.is_stopped:
            raise


def _await_jobs(name: str) -> None:
    """Until the study's jobs have ended: a launch that comes before would take them for workers."""
    from kdhpc.errors import ClusterError
    from kdhpc.searching.jobs import study_jobs

    deadline = time.monotonic() + _JOBS_PATIENCE_S
    told = ""
    try:
        while ids := " ".join(job.job for job in study_jobs(name, patient=True) if job.state == "RUNNING"):
            if time.monotonic() > deadline:
                _tell(f"these jobs still run, their logs say why; `scancel {ids}` ends them")
                return
            if ids != told:
                _tell(f"waiting for jobs to end: {ids}")
            told = ids
            time.sleep(_POLL_S)
    except ClusterError as exc:
        _tell(f"not known whether its jobs have ended: {exc}")


def _tell(text: str) -> None:
    print(f"kdhpc: {text}", file=sys.stderr, flush=True)
