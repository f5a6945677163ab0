"""``kdhpc stop``: let a study's workers checkpoint and exit."""

import argparse
import sys
import time

from kdhpc.cli.study_argument import add_study_argument, chosen_study

_DESCRIPTION = """\
Asks all workers of a study, wherever they run, to checkpoint their trials and to exit, and waits until they have. They
are asked through the database: it may take as long as worker.renew_s and a step. Jobs that wait in Slurm's queue are
cancelled. `kdhpc launch` or `kdhpc search` goes on with the study later.
"""
_POLL_S = 1.0


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "stop",
        help="let a study's workers checkpoint and exit",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_study_argument(parser)
    parser.add_argument("--no-wait", action="store_true", help="ask, and return at once")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Ask, and wait."""
    from kdhpc.cluster.jobs import cancel_waiting
    from kdhpc.errors import ClusterError
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy
    from kdhpc.study.summary import read_status

    storage = Storage.connect()
    study = SharedStudy.open(storage, chosen_study(args, storage))
    name = study.definition.name
    study.drain()
    try:
        cancelled = cancel_waiting(name)
    except ClusterError as exc:
        cancelled = ()
        print(f"kdhpc: jobs that wait in the queue are not cancelled: {exc}", file=sys.stderr)
    if cancelled:
        print(f"kdhpc: cancelled, they had not started: {' '.join(cancelled)}", file=sys.stderr)
    while not args.no_wait and (running := read_status(storage, name).trials.running):
        print(f"kdhpc: {running} trials to be checkpointed", file=sys.stderr)
        time.sleep(_POLL_S)
    return 0
