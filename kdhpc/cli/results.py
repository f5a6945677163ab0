"""``kdhpc results``: final trainings in a table, averaged over seeds; compared in pairs; or as a greedy ensemble."""

import argparse
import csv
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli import results_against, results_ensemble
from kdhpc.cli.network_argument import add_network_argument
from kdhpc.cli.parser import positive
from kdhpc.cli.results_table import columns_of, shown, whole
from kdhpc.cli.table import show
from kdhpc.errors import UsageError
from kdhpc.files.json_text import strict_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdhpc.cli.results_table import Column
    from kdhpc.final.summary import Spread, Summary

_DESCRIPTION = """\
Mean and standard deviation over seeds of the nodes' mean accuracy and of the ensemble's, on the test images, after the
last epoch. A row for each data set, network, graph and set of settings. Seeds that diverged have no accuracy: they are
counted beside the average, not in it. On a terminal, what all rows share is said once above the table, and columns that
do not fit are left out; a pipe gets all columns. JSON and CSV also say what the graph was searched with (data set,
network, study and trial), and which run taught a student, with its ensemble's accuracy.

Measures, for --columns and --against, of the ensemble: ensemble (accuracy), nll (nats), brier (0 to 2), ece (15 bins, 0
to 1), auroc (by the largest probability, against a second data set, see `kdhpc evaluate --ood`; of several auroc:NAME);
of nodes: node (mean accuracy), node_nll, node_brier, node_ece, node_auroc; of their pairs: disagreement (share of
images, 0 to 1), mutual_kl (nats). A dash: a seed does not have it. `kdhpc evaluate` gives it to older runs.

--against compares with the training, or the graph, of that name, over the seeds that both have: the mean of the
differences and its 95 % interval, by the paired t-test. --ensemble greedy chooses networks one by one, of runs with
run.split=search, by the accuracy on the images that these hold out, and scores their ensemble on the test images.
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
  kdhpc results --columns ensemble,nll,ece
  kdhpc results --against independent --columns ensemble,nll
  kdhpc results --format markdown >> README.md
  kdhpc results runs/train/a-search runs/train/b-search --ensemble greedy --members 4
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "results",
        help="final trainings in a table, averaged over seeds",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("folder", nargs="*", type=Path, metavar="DIR", help="where to look (default: runs/train)")
    parser.add_argument(
        "--ddof",
        type=int,
        choices=(0, 1),
        help="standard deviations: 1 of the sample (default), 0 of the population",
    )
    parser.add_argument("--columns", metavar="MEASURE,...", help="what to show; JSON and CSV have all")
    parser.add_argument("--against", metavar="GRAPH", help="compare in pairs of seeds with this training or graph")
    parser.add_argument("--ensemble", choices=("greedy",), help="an ensemble of networks of all runs")
    parser.add_argument("--members", type=positive, metavar="N", help="with --ensemble: how many networks")
    add_network_argument(parser, only_with="--ensemble")
    parser.add_argument(
        "--format", choices=("table", "markdown", "json", "csv"), default="table", help="default: table"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the table.

    Raises:
        DataError: there is no such folder, or no result in it.
        UsageError: options that have no meaning together, or a measure that there is not.
        KdhpcError: as `kdhpc.final.comparison.compare` and `kdhpc.report.greedy.choose_greedily`.
    """
    from kdhpc.config.paths import final_root
    from kdhpc.final.measures import parse_measures, settle
    from kdhpc.final.summary import results_below, summarise

    _check_together(args)
    folders = args.folder or [final_root()]
    if args.ensemble is not None:
        return results_ensemble.run(folders, args.members, args.network, args.format)
    measures = () if args.columns is None else parse_measures(args.columns)
    found = results_below(folders)
    if args.against is not None:
        return results_against.run(found, args.against, measures, args.format)
    results, ddof = [one.result for one in found], 1 if args.ddof is None else args.ddof
    summaries = summarise(results, ddof=ddof)
    if args.format == "json":
        print(strict_json([_document(summary, ddof) for summary in summaries], indent=2))
    elif args.format == "csv":
        _print_csv(summaries, ddof)
    else:
        columns, notes = _table(summaries, settle(measures, results), ddof)
        as_markdown = args.format == "markdown"
        is_fitted = sys.stdout.isatty() and not as_markdown
        show(*(shown(columns) if is_fitted else [whole(columns)]), "", *notes, as_markdown=as_markdown)
    return 0


def _check_together(args: argparse.Namespace) -> None:
    """Refuse options that mean nothing beside each other."""
    if args.ensemble is not None and (args.against is not None or args.columns is not None):
        raise UsageError("--ensemble is a table of its own: leave --against and --columns out")
    if args.ensemble is None and (args.members is not None or args.network):
        option = "--members" if args.members is not None else "--network"
        raise UsageError(f"{option} is of an ensemble: add --ensemble greedy")
    if args.ensemble is not None and args.members is None:
        raise UsageError("--ensemble greedy does not say how many networks it may have: add --members N")
    if args.ddof is not None and (args.against is not None or args.ensemble is not None):
        other = "--against" if args.against is not None else "--ensemble"
        raise UsageError(f"--ddof is of standard deviations, which {other} does not show: leave it out")
    if args.columns is not None and args.against is None and args.format in ("json", "csv"):
        raise UsageError(f"--columns is of tables, and {args.format} has all columns: leave it out")


def _document(summary: "Summary", ddof: int) -> dict[str, object]:
    return {**dataclasses.asdict(summary), "diverged": len(summary.diverged_seeds), "ddof": ddof}


def _table(
    summaries: "tuple[Summary, ...]", measures: "tuple[str, ...]", ddof: int
) -> "tuple[list[Column], list[str]]":
    """Its columns, and what is said below it."""
    columns = columns_of(summaries, measures)
    accuracies, scores = ("ensemble", "node"), {*measures} - {"ensemble", "node"}
    percent = "" if len(scores) == len(measures) > 0 else "top-1 in percent, "
    if percent and scores:
        percent = f"{' and '.join(name for name in accuracies if name in measures)}: top-1 in percent; all: "
    notes = [f"{percent}mean ± standard deviation (ddof {ddof}) over seeds"]
    if any(s.diverged_seeds for s in summaries):
        notes[0] += "; diverged: seeds that are not in it"
    unscored = sum(len(s.unscored_seeds) for s in summaries)
    if unscored and (scores or any(column.head == "nll" for column in columns)):
        runs = "run has" if unscored == 1 else "runs have"
        notes.append(f"{unscored} {runs} no scores, being older: `kdhpc evaluate` with the folder adds them")
    return columns, notes


def _print_csv(summaries: "tuple[Summary, ...]", ddof: int) -> None:
    scores = list(dict.fromkeys(name for s in summaries for name in s.scores))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(f"{name}_{part}" for name in scores for part in ("mean", "std"))])
    for s in summaries:
        spreads = [value for spread in (s.node, s.ensemble) for value in _mean_and_std(spread)]
        what = (s.name, s.dataset, s.network, s.graph, s.num_nodes, s.epochs, s.training_images, s.scored_on)
        searched = (s.searched.dataset, s.searched.network, s.searched.study, s.searched.trial)
        taught = (s.teacher, s.teacher_accuracy)
        diverged = (len(s.diverged_seeds), _listed(s.diverged_seeds))
        cost = (s.num_parameters, s.precision)
        scored = [value for name in scores for value in _mean_and_std(s.scores.get(name))]
        writer.writerow([*what, _listed(s.seeds), *diverged, *spreads, ddof, *cost, *searched, *taught, *scored])


def _mean_and_std(spread: "Spread | None") -> "tuple[float | None, float | None]":
    return (None, None) if spread is None else (spread.mean, spread.std)


def _listed(seeds: "Sequence[int]") -> str:
    return " ".join(map(str, seeds))
