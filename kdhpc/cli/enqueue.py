"""``kdhpc enqueue``: given graphs, trained beside a study's budget, to compare with."""

import argparse
import sys
from typing import TYPE_CHECKING

from kdhpc.cli.parser import positive
from kdhpc.cli.study_argument import add_study_argument, chosen_study

if TYPE_CHECKING:
    from kdhpc.study.status import StudyStatus

_PATIENCE_S = 5.0
_DESCRIPTION = """\
Gives a study graphs to compare its best one with: presets, or files of graphs. The study's workers train them to the
end, on the images that the search uses, outside the budget and never pruned, before its other trials. That works while
workers run; and after the budget is spent, where `kdhpc search` or `kdhpc launch` trains what is open. A new study is
given study.baselines by itself. `kdhpc status` shows what the graphs come to, and the lead over them.
"""
_EPILOG = """\
examples:
  kdhpc enqueue --study mine independent dml
  kdhpc enqueue --study mine 'uniform:att+' my-graph.json --seeds 3
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "enqueue",
        help="train given graphs beside a study's budget, to compare with",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    parser.add_argument("graphs", nargs="+", metavar="GRAPH", help="a preset, a graph of the zoo, or a graph's file")
    parser.add_argument(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="trainings of each, with those that it has already (default: 1)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Write them into the study, and say who trains them."""
    from kdhpc.graph.space import graph_key
    from kdhpc.searching.enqueueing import check_given
    from kdhpc.study.given import load_given
    from kdhpc.study.status import read_status
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy

    storage = Storage.connect(patience_s=_PATIENCE_S)
    study = SharedStudy.open(storage, chosen_study(args, storage))
    definition = study.definition
    # One at a time: each is named in the answer, also one that trains like another.
    graphs = [
        graph
        for name in dict.fromkeys(args.graphs)
        for graph in load_given([name], definition.space, definition.node_networks)
    ]
    check_given(study, graphs)
    known = {result.graph_key: result for result in study.give(graphs, num_seeds=args.seeds)}
    for given in graphs:
        result = known[graph_key(given.graph)]
        called = given.name if given.name == result.name else f"{given.name}, which is {result.name},"
        counts = ((len(result.values), "done"), (result.open, "to come"), (result.failed, "failed"))
        told = ", ".join(f"{count} {word}" for count, word in (*counts, (result.diverged, "diverged")) if count)
        print(f"study {study.definition.name}: {called} is given: trainings {told}", file=sys.stderr)
    tell_who_trains(read_status(storage, study.definition.name))
    return 0


def tell_who_trains(status: "StudyStatus") -> None:
    """Say in one line what is open, and who trains it."""
    name, num_workers = status.study, sum(not worker.lost for worker in status.workers)
    left = status.given_trials.unfinished
    if not left:
        told = "nothing is left to train outside the budget"
    elif num_workers and not status.draining:
        told = f"left to train outside the budget: {left}; the workers that run go on with it"
    else:
        told = f"left to train outside the budget: {left}; `kdhpc search --study {name}` or `kdhpc launch --study "
        told += f"{name}` goes on with it"
    print(f"study {name}: {told}", file=sys.stderr)
