"""``kdhpc results``: final trainings in a table, averaged over seeds."""

import argparse
import csv
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.results_table import columns_of, plain, shown
from kdhpc.cli.table import show
from kdhpc.files.json_text import strict_json

if TYPE_CHECKING:
    from kdhpc.final.summary import Spread, Summary

_DESCRIPTION = """\
Mean and standard deviation over seeds of the nodes' mean accuracy and of the ensemble's, on the test images, after the
last epoch. A row for each data set, network, graph and set of settings. Seeds that diverged have no accuracy: they are
counted beside the average, not in it. On a terminal, what all rows share is said once above the table, and columns that
do not fit are left out; a pipe gets all columns. JSON and CSV also say what the graph was searched with (data set,
network, study and trial), and which run taught a student, with its ensemble's accuracy.
"""


_COLUMNS = (
    *("training", "dataset", "network", "graph", "nodes", "epochs", "training_images", "scored_on", "seeds"),
    *("diverged", "diverged_seeds"),
    *("node_mean", "node_std", "ensemble_mean", "ensemble_std", "ddof", "parameters", "precision"),
    *("searched_dataset", "searched_network", "searched_study", "searched_trial"),
    *("teacher", "teacher_accuracy"),
)
_EPILOG = """\
examples:
  kdhpc results
  kdhpc results runs/train/dogs5-best --format csv
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "results",
        help="final trainings in a table, averaged over seeds",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="where to look (default: runs/train)")
    parser.add_argument(
        "--ddof",
        type=int,
        choices=(0, 1),
        default=1,
        help="standard deviations: 1 of the sample (default), 0 of the population",
    )
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the table.

    Raises:
        DataError: there is no such folder, or no result in it.
    """
    from kdhpc.config.paths import final_root
    from kdhpc.final.summary import summarise_folder

    summaries = summarise_folder(args.folder or final_root(), ddof=args.ddof)
    if args.format == "json":
        print(strict_json([_document(summary, args.ddof) for summary in summaries], indent=2))
    elif args.format == "csv":
        _print_csv(summaries, args.ddof)
    else:
        _print_table(summaries, args.ddof)
    return 0


def _document(summary: "Summary", ddof: int) -> dict[str, object]:
    return {**dataclasses.asdict(summary), "diverged": len(summary.diverged_seeds), "ddof": ddof}


def _print_table(summaries: "tuple[Summary, ...]", ddof: int) -> None:
    columns = columns_of(summaries)
    note = f"top-1 in percent, mean ± standard deviation (ddof {ddof}) over seeds"
    if any(s.diverged_seeds for s in summaries):
        note = f"{note}; diverged: seeds that are not in it"
    show(*(shown(columns) if sys.stdout.isatty() else plain(columns)), "", note)


def _print_csv(summaries: "tuple[Summary, ...]", ddof: int) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for s in summaries:
        spreads = [value for spread in (s.node, s.ensemble) for value in _mean_and_std(spread)]
        what = (s.name, s.dataset, s.network, s.graph, s.num_nodes, s.epochs, s.training_images, s.scored_on)
        searched = (s.searched.dataset, s.searched.network, s.searched.study, s.searched.trial)
        taught = (s.teacher, s.teacher_accuracy)
        diverged = (len(s.diverged_seeds), _listed(s.diverged_seeds))
        cost = (s.num_parameters, s.precision)
        writer.writerow([*what, _listed(s.seeds), *diverged, *spreads, ddof, *cost, *searched, *taught])


def _mean_and_std(spread: "Spread | None") -> "tuple[float | None, float | None]":
    return (None, None) if spread is None else (spread.mean, spread.std)


def _listed(seeds: "tuple[int, ...]") -> str:
    return " ".join(map(str, seeds))
