"""``kdhpc worker``: one worker in the foreground."""

import argparse
from typing import TYPE_CHECKING

from kdhpc.cli.study_argument import add_study_argument, chosen_study
from kdhpc.words import counted

if TYPE_CHECKING:
    from kdhpc.cluster.signals import StopSignals

_DESCRIPTION = """\
Joins a study that exists (see `kdhpc search`): leases trials, trains them, and ends when nothing is left to train.
Any number of workers can join, on any machine that reaches the database, the packed data, and the same KDHPC_RUNS,
where the checkpoints are. On SIGINT, SIGTERM or SIGUSR2 the trial is checkpointed and given back.
"""
_EPILOG = """\
examples:
  kdhpc worker --study mine
  kdhpc worker --study mine device.threads=4
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "worker",
        help="run one worker of a study in the foreground",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    parser.add_argument(
        "--requeue",
        action="store_true",
        help="at its time limit (SIGUSR2), requeue the Slurm job; for batch scripts that run this command alone",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="how to run here, as device.threads=4")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Work until nothing is left to train."""
    from kdhpc.cluster.requeue import requeue_if_out_of_time
    from kdhpc.cluster.signals import StopSignals
    from kdhpc.log import log_to_stderr
    from kdhpc.searching.job import unless_stopped

    log_to_stderr()
    # Before the imports, which take seconds: a signal that comes meanwhile counts, too.
    with StopSignals(ends_at_second=True) as stop:
        finished = unless_stopped(stop, lambda: _work(args, stop))
        requeued = requeue_if_out_of_time(stop, is_ours=args.requeue)
    if finished is not None:
        print(f"{counted(finished, 'trial')} finished")
    return 130 if stop.requested and not requeued else 0


def _work(args: argparse.Namespace, stop: "StopSignals") -> int:
    from kdhpc.config.compose import compose_search
    from kdhpc.searching.job import connect
    from kdhpc.searching.plan import check_same_study, stored_groups
    from kdhpc.searching.worker import run_worker
    from kdhpc.study.study import SharedStudy

    storage = connect(stop)
    study = SharedStudy.open(storage, chosen_study(args, storage))
    config = compose_search(args.overrides, given=stored_groups(study))
    check_same_study(study, config)
    return run_worker(study, config, stop)
