"""``kdhpc status``: how far a study is. Reads only."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from kdhpc.cli.study_argument import add_study_argument, chosen_study
from kdhpc.cli.table import show
from kdhpc.errors import UsageError

if TYPE_CHECKING:
    from kdhpc.cluster.slurm import QueuedJob
    from kdhpc.study.status import StudyStatus
    from kdhpc.study.storage import Storage

_PATIENCE_S = 5.0
_WATCH_PATIENCE_S = 1.0
_EVERY_S = 5.0
_OFTEN_S = 1.0


_EPILOG = """\
examples:
  kdhpc status
  kdhpc status --study quickstart --format json
  kdhpc status --watch      a live view, over ssh as well; Ctrl-C ends it, and nothing else
  kdhpc status --watch 60   every minute; into a file or a pipe it prints one block after the other
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "status",
        help="how far a study is",
        description="Shows the budget, trials by state, best trial, rungs, workers, jobs, failures. Changes nothing.",
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=_EVERY_S,
        metavar="SECONDS",
        help=f"stay, and show it again so often (default: every {_EVERY_S:g} s), until all is trained or Ctrl-C",
    )
    parser.set_defaults(func=run)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"'{word}' is no number of seconds") from exc
    if not _OFTEN_S <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{word}: at least {_OFTEN_S:g} second")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Print the status.

    Raises:
        DatabaseError: the database is away; the message says whether the job that hosts it waits in the queue.
        UsageError: a live view as JSON is asked for.
    """
    if args.watch is not None:
        return _watch(args)
    from kdhpc.cli.status_view import status_parts
    from kdhpc.files.json_text import strict_json
    from kdhpc.searching.jobs import mark_lost
    from kdhpc.study.status import read_status

    storage = _connect(args, _PATIENCE_S)
    status = read_status(storage, chosen_study(args, storage))
    jobs = _jobs(status)
    if jobs is not None:
        status = mark_lost(status, jobs)
    if args.format == "json":
        listed = None if jobs is None else [_document(job) for job in jobs]
        print(strict_json({**dataclasses.asdict(status), "jobs": listed}, indent=2))
    else:
        show(*status_parts(status, jobs or ()))
    return 0


def _watch(args: argparse.Namespace) -> int:
    if args.format == "json":
        raise UsageError("--watch shows a table: for JSON, call `kdhpc status --format json` as often as you like")
    from kdhpc.cli.watch import watch

    storage = _connect(args, _WATCH_PATIENCE_S)
    return watch(storage, chosen_study(args, storage), args.watch)


def _connect(args: argparse.Namespace, patience_s: float) -> "Storage":
    from kdhpc.errors import DatabaseError
    from kdhpc.study.storage import Storage

    try:
        return Storage.connect(patience_s=patience_s)
    except DatabaseError as exc:
        raise DatabaseError(f"{exc}{_waiting_launcher(args.study)}") from exc


def _jobs(status: "StudyStatus") -> "tuple[QueuedJob, ...] | None":
    """The study's jobs; none where there is no Slurm, or it does not answer."""
    from kdhpc.cluster import slurm
    from kdhpc.errors import ClusterError
    from kdhpc.searching.jobs import study_jobs

    if not slurm.is_available():
        return None
    try:
        return study_jobs(status.study, (worker.job for worker in status.workers if worker.job))
    except ClusterError as exc:
        print(f"kdhpc: no jobs shown: {exc}", file=sys.stderr)
        return None


def _waiting_launcher(study: str | None) -> str:
    """That the launching job of a study, which may host the database, waits in the queue; empty: it does not."""
    from kdhpc.cluster import slurm
    from kdhpc.errors import ClusterError
    from kdhpc.searching.jobs import launching_jobs

    if study is None or not slurm.is_available():
        return ""
    try:
        return "".join(f"; its launching job {job.job} is {job.condition}" for job in launching_jobs(study))
    except ClusterError as exc:
        return f"; and {exc}"


def _document(job: "QueuedJob") -> dict[str, str]:
    return {
        "job": job.job,
        "state": job.state,
        "condition": job.condition,
        "node": job.node,
        "time_left": job.time_left,
        "reason": job.reason,
    }
