"""``kdhpc confirm``: the best graphs of a study, trained again with new seeds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.enqueue import tell_who_trains
from kdhpc.cli.parser import positive
from kdhpc.cli.study_config import OPTION_KEYS, add_search_study_argument, study_name, wanted_study
from kdhpc.errors import UsageError

if TYPE_CHECKING:
    from kdhpc.searching.plan import Confirmation

_PATIENCE_S = 5.0
_DESCRIPTION = """\
The best of many noisy values is too good to be true. This trains the graphs that were best in the search again, on the
same images with new seeds, and the study's baselines as often, all outside the budget. From then on, `kdhpc status` and
`kdhpc export-best` rank these graphs first, by the mean of the new trainings, and show it beside the value of the
search. Given again with more seeds, only the missing trainings are added. It works as `kdhpc search` does, or with
--launch as `kdhpc launch`: trials of the budget that are still open are trained as well, after these.
"""
_EPILOG = """\
examples:
  kdhpc confirm --study mine --top 10 --seeds 3                    here, with progress; Ctrl-C, and again, goes on
  kdhpc confirm --study mine --top 10 --seeds 3 --launch --workers 16     with workers on a Slurm cluster
  kdhpc confirm --study mine --top 10 --seeds 3 --no-train         workers that run train them
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "confirm",
        help="train the best graphs again with new seeds, and rank by the mean",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_search_study_argument(parser)
    parser.add_argument("--top", type=positive, default=10, metavar="K", help="how many graphs (default: 10)")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="trainings of each (default: 3)")
    parser.add_argument("--workers", type=int, metavar="K", help="workers at once (cluster.workers)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--launch", action="store_true", help="submit workers to Slurm, instead of working here")
    where.add_argument("--no-train", action="store_true", help="start no workers: those that run train them")
    parser.add_argument("--wait", action="store_true", help="with --launch: stay until all is trained")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, searched before the shipped ones"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides, as worker.lease_s=60")
    parser.set_defaults(func=run, trials=None, option_keys=OPTION_KEYS)


def run(args: argparse.Namespace) -> int:
    """Confirm.

    Returns:
        As `kdhpc search`, or `kdhpc launch`.
    """
    import shlex

    from kdhpc.searching.plan import Confirmation

    _refuse_without_meaning(args)
    confirmation, again = Confirmation(top=args.top, num_seeds=args.seeds), shlex.join(["kdhpc", *args.words])
    if args.no_train:
        return _only_give(args, confirmation)
    if args.launch:
        return _launch(args, confirmation, again)
    from kdhpc.cli.search import search_here

    return search_here(wanted_study(args, executor="local"), again, confirmation)


def _refuse_without_meaning(args: argparse.Namespace) -> None:
    """Refuse options of workers where none are started, and of jobs where none are submitted."""
    if args.wait and not args.launch:
        raise UsageError("--wait has no meaning without --launch: leave it out, this command stays until all is done")
    if not args.no_train:
        return
    given = [f"--workers {args.workers}"] if args.workers is not None else []
    given += [word for word in args.overrides if not word.startswith("study=")]
    if given:
        raise UsageError(f"{given[0]} has no meaning with --no-train, which starts no workers: leave it out")


def _only_give(args: argparse.Namespace, confirmation: "Confirmation") -> int:
    from kdhpc.log import log_to_stderr
    from kdhpc.study.status import read_status
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy

    log_to_stderr()
    name, storage = study_name(args), Storage.connect(patience_s=_PATIENCE_S)
    SharedStudy.open(storage, name).confirm(top=confirmation.top, num_seeds=confirmation.num_seeds)
    tell_who_trains(read_status(storage, name))
    return 0


def _launch(args: argparse.Namespace, confirmation: "Confirmation", again: str) -> int:
    from kdhpc.cluster.signals import StopSignals

    with StopSignals(ends_at_second=True) as stop:
        from kdhpc.cli.launch import launch
        from kdhpc.cluster import commands
        from kdhpc.log import log_to_stderr

        log_to_stderr()
        wanted = wanted_study(args, executor="slurm")
        commands.require()
        commands.require_configured()
        return launch(wanted, None, stop, stays=args.wait, again=again, confirmation=confirmation)
