"""``kdhpc search``: find the best graph of a study, with workers on this machine."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.progress import Progress
from kdhpc.cli.study_config import OPTION_KEYS, Wanted, add_search_study_argument, wanted_study
from kdhpc.searching.outcome import hours_line, problem_of

if TYPE_CHECKING:
    from kdhpc.config.schema import SearchConfig
    from kdhpc.searching.plan import Confirmation

_PATIENCE_S = 10.0

_DESCRIPTION = """\
Makes the study (or goes on with it), starts workers on this machine, shows progress, and returns when the budget is
done. Ctrl-C lets every worker checkpoint its trial; a second one ends them at once. After that, or after a crash, the
same command goes on where it stopped. Without KDHPC_STORAGE it uses the embedded PostgreSQL of this folder, and starts
it if needed.
"""
_EPILOG = """\
examples:
  kdhpc search --study quickstart                            the shipped study configs/study/quickstart.yaml
  kdhpc search --study quickstart --trials 40                raise the budget of a study that exists: it keeps it
  kdhpc search --study mine study=dogs4 network=resnet18     a study of your own, from a shipped one
  kdhpc search --study mine study=dogs2 training.epochs=100 'training.milestones=[0.5,0.75]'
  kdhpc search --study mine study=dogs2 'study.gates=[through,cutoff]' --dry-run
  kdhpc search --study quickstart tracking=tensorboard       show trials in TensorBoard, MLflow or W&B
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "search",
        help="search for the best graph, with workers on this machine",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_search_study_argument(parser)
    parser.add_argument("--workers", type=int, metavar="K", help="worker processes (cluster.workers)")
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="the budget: all trials, however they end (study.trials; default: an existing study keeps its own)",
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, searched before the shipped ones"
    )
    parser.add_argument("--dry-run", action="store_true", help="check and print the whole config, and stop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides, as training.batch_size=32")
    parser.set_defaults(func=run, option_keys=OPTION_KEYS)


def run(args: argparse.Namespace) -> int:
    """Search until the budget is done.

    Returns:
        0 done; 1 done, but trials failed, or all of them diverged; 130 stopped before it was done.
    """
    from kdhpc.searching.plan import check_plan

    wanted = wanted_study(args, executor="local")
    if args.dry_run:
        check_plan(wanted.name, wanted.config)
        return _print_config(wanted.config)
    return search_here(wanted, shlex.join(["kdhpc", *args.words]))


def search_here(wanted: Wanted, again: str, confirmation: "Confirmation | None" = None) -> int:
    """Search with workers on this machine, until nothing is left to train.

    Args:
        wanted: The study, and how.
        again: The command that goes on where this one stopped.
        confirmation: Best graphs to be trained again first.

    Returns:
        As :func:`run`.
    """
    from kdhpc.cluster.signals import StopSignals
    from kdhpc.config.goals import GOALS
    from kdhpc.searching.local import for_this_machine, search_locally
    from kdhpc.searching.plan import plan_study
    from kdhpc.server.control import ensure_server
    from kdhpc.study.ranking import lead_line
    from kdhpc.study.status import read_status
    from kdhpc.study.storage import Storage
    from kdhpc.tracking.names import how_to_look_at_study

    name = wanted.name
    # Before there is a server: most mistakes show here.
    plan = replace(plan_study(name, for_this_machine(wanted.config)), confirmation=confirmation)
    with Progress() as progress:
        with StopSignals(ends_at_second=True) as stop:
            ensure_server()
            storage = Storage.connect(patience_s=_PATIENCE_S, should_stop=lambda: stop.requested)
            study, manifest = plan.launch(storage, trials=wanted.trials)
            if look := how_to_look_at_study(plan.config.tracking, name):
                progress.tell(look)
            is_done = search_locally(study, plan.config, manifest, storage, stop, progress, progress.tell)
        status = read_status(storage, name) if is_done else None
    if status is None:
        progress.tell(f"stopped; `{again}` goes on")
        return 130
    if used := hours_line(name, status.hours_used, status.max_gpu_hours, status.trials.beyond_hours):
        progress.tell(used)
    if lead := lead_line(status.lead, name, GOALS[status.goal], diverged=status.diverged_given):
        progress.tell(lead)
    problem = problem_of(status, f"the logs in {manifest.logs}")
    if problem:
        progress.tell(problem)
    return 1 if problem else 0


def _print_config(config: "SearchConfig") -> int:
    import yaml

    from kdhpc.config.document import to_document

    print(yaml.safe_dump(to_document(config), sort_keys=False), end="")
    return 0
