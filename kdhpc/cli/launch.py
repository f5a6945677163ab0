"""``kdhpc launch``: search with workers on a Slurm cluster."""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.progress import Progress
from kdhpc.cli.study_config import OPTION_KEYS, Wanted, add_search_study_argument, study_name, wanted_study
from kdhpc.errors import DatabaseError
from kdhpc.searching.outcome import hours_line, problem_of
from kdhpc.words import counted

if TYPE_CHECKING:
    from kdhpc.cluster.signals import StopSignals
    from kdhpc.config.schema import SearchConfig
    from kdhpc.searching.manifest import Manifest
    from kdhpc.searching.plan import Confirmation
    from kdhpc.study.storage import Storage

_DESCRIPTION = """\
Makes the study (or goes on with it) and submits its workers as one job array; workers that run or wait already count.
Run it on a login node, or as a small job: `sbatch slurm/search_array.sh` passes its arguments on to it.

With a database (KDHPC_STORAGE, or `kdhpc db start --listen all`) it returns when the workers are submitted, for which
it may wait 45 s to see whether workers that have no trial start or end. Without one it hosts PostgreSQL itself, and
stays, as it does with --wait and in that script, until the budget is done: it replaces lost workers, exports the best
graph, and, in that script, requeues its job at the time limit while the workers wait.
"""
_EPILOG = """\
examples:
  sbatch slurm/search_array.sh study=quickstart            all of it, in one line
  kdhpc launch --study dogs4 --workers 16 cluster.partition=gpu cluster.account=me
  kdhpc launch --study dogs4 --workers 16 --dry-run        what would be given to sbatch
  kdhpc launch --study dogs4 --workers 32                  16 more
  kdhpc launch --study dogs4 --workers 16 tracking=mlflow  show trials in MLflow (docs/tracking.md)
"""
_BY_THE_SCRIPT = ["launch", "--wait", "--requeue"]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "launch",
        help="search for the best graph, with workers on a Slurm cluster",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_search_study_argument(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="K",
        help="workers that run at once, those of earlier launches included (cluster.workers)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="the budget: all trials, however they end (study.trials)",
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, searched before the shipped ones"
    )
    parser.add_argument(
        "--wait", action="store_true", help="stay until the budget is done, even if another process hosts the database"
    )
    parser.add_argument(
        "--requeue",
        action="store_true",
        help="at its time limit (SIGUSR2), requeue the Slurm job; for batch scripts that run this command alone",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the workers' sbatch script and stop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides, as cluster.time_min=600")
    parser.set_defaults(func=run, option_keys=OPTION_KEYS)


def run(args: argparse.Namespace) -> int:
    """Launch.

    Returns:
        0 launched, or done where it stayed; 1 done, but trials failed, or all of them diverged; 130 stopped before it
        was done.
    """
    from kdhpc.cluster.signals import StopSignals

    # Before the imports, which take seconds: a signal that comes meanwhile counts, too.
    with StopSignals(ends_at_second=True) as stop:
        from kdhpc.cluster import commands
        from kdhpc.cluster.requeue import requeue_if_out_of_time
        from kdhpc.log import log_to_stderr
        from kdhpc.searching.launch import continued_launch
        from kdhpc.searching.plan import check_networks, check_plan, space_compares_maps

        name = study_name(args)
        log_to_stderr()
        before = continued_launch(name)
        wanted = Wanted(name=name, config=before[1], trials=None) if before else wanted_study(args, executor="slurm")
        check_networks(wanted.config, compares_maps=space_compares_maps(wanted.config))
        commands.require()
        if args.dry_run:
            check_plan(name, wanted.config)
            return _print_script(name, wanted.config)
        commands.require_configured()
        try:
            code = 130 if stop.requested else launch(wanted, before, stop, stays=args.wait, again=_again(args.words))
        except DatabaseError:
            # Calls are given up when a signal comes.
            if not stop.requested:
                raise
            code = 130
        requeue_if_out_of_time(stop, is_ours=args.requeue)
    return code


def launch(
    wanted: Wanted,
    before: "tuple[Manifest, SearchConfig] | None",
    stop: "StopSignals",
    *,
    stays: bool,
    again: str,
    confirmation: "Confirmation | None" = None,
) -> int:
    """Submit workers, and stay where that is asked for or needed.

    Args:
        wanted: The study, and how.
        before: What this command launched before its job was requeued.
        stop: Ends it.
        stays: Stay until nothing is left to train.
        again: The command that goes on where this one stopped.
        confirmation: Best graphs to be trained again first.

    Returns:
        As :func:`run`.
    """
    from kdhpc.searching.launch import Launch
    from kdhpc.searching.plan import StudyPlan, plan_study
    from kdhpc.searching.server_host import ServerHost
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy
    from kdhpc.tracking.names import how_to_look_at_study

    name, config = wanted.name, wanted.config
    begun = before or replace(plan_study(name, config), confirmation=confirmation)
    with ServerHost(config.cluster, stop) as server_host:
        storage = server_host.attend(
            lambda: Storage.connect(first_contact_s=60, patience_s=20, should_stop=lambda: stop.requested)
        )
        if isinstance(begun, StudyPlan):
            plan, stays = begun, stays or server_host.is_bound
            launched = server_host.attend(lambda: Launch.begin(storage, plan, trials=wanted.trials))
            count = server_host.attend(launched.top_up_or_later if stays else lambda: launched.top_up_and_leave(stop))
            _tell(f"study {name}: {counted(count, 'worker')} submitted, up to {config.cluster.workers} at once")
            if look := how_to_look_at_study(config.tracking, name):
                _tell(look)
            if not stays:
                _tell(f"`kdhpc status --study {name}` tells how far it is")
                return 0
        else:
            manifest, config = begun
            launched = Launch(storage, server_host.attend(lambda: SharedStudy.open(storage, name)), manifest, config)
        with Progress() as progress:
            is_done = launched.watch(server_host, stop, progress)
        if not is_done:
            _tell(f"stopped before the budget was done; `{again}` goes on")
            return 130 if stop.requested else 0
        # Another launcher, which is done too, may have hosted the database until now.
        return server_host.attend(lambda: _finish(storage, name))


def _again(words: list[str]) -> str:
    """The command that was given, to be given again."""
    from kdhpc.cluster.slurm import in_job

    if in_job() and words[: len(_BY_THE_SCRIPT)] == _BY_THE_SCRIPT:
        return shlex.join(["sbatch", "slurm/search_array.sh", *words[len(_BY_THE_SCRIPT) :]])
    return shlex.join(["kdhpc", *words])


def _finish(storage: "Storage", name: str) -> int:
    """Export the best graph, and say what is wrong."""
    from kdhpc.cli.export_best import export_best
    from kdhpc.study.status import read_status

    status = read_status(storage, name)
    if status.trials.complete:
        export_best(storage, name, top=1)
    if used := hours_line(name, status.hours_used, status.max_gpu_hours, status.trials.beyond_hours):
        _tell(used)
    problem = problem_of(status, "the workers' logs")
    if problem:
        _tell(problem)
    return 1 if problem else 0


def _print_script(name: str, config: "SearchConfig") -> int:
    from kdhpc.searching.manifest import launch_name
    from kdhpc.searching.submission import submission_script

    print(submission_script(name, launch_name(), config.cluster, config.cluster.workers))
    return 0


def _tell(text: str) -> None:
    print(f"kdhpc: {text}", file=sys.stderr, flush=True)
