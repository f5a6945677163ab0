"""``kdhpc report accuracy``: ensemble accuracy by the number of nodes, or of parameters."""

import argparse
from pathlib import Path

from kdhpc.cli.parser import output_folder
from kdhpc.errors import DataError, UsageError

_DESCRIPTION = """\
Draws the ensemble accuracy of final trainings, a picture for each data set: by the number of nodes, a curve for each
kind of graph (the paper's Figure 3), or by the number of parameters of all networks, a curve for each network and kind
of graph, and one for single networks of several sizes (Figure 8). Bars are standard deviations over seeds (ddof 1).

A curve joins trainings of the same network, epochs, training images and precision; what the curves of a picture have
in common is said below it. Two trainings of one curve with the same number of nodes are points of their own, by name.
The numbers: kdhpc results --format csv.

--measure draws something else than the ensemble's accuracy, by the names that `kdhpc results --columns` takes: nll,
ece, brier, disagreement, mutual_kl, auroc:NAME, and of nodes node, node_nll and so on.
"""
_EPILOG = """\
examples:
  kdhpc report accuracy --by nodes
  kdhpc report accuracy runs/train --by parameters --out figures
  kdhpc report accuracy --by nodes --measure nll
"""


def add_parser(reports: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = reports.add_parser(
        "accuracy",
        help="ensemble accuracy by number of nodes or of parameters (Figures 3 and 8)",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="where to look (default: runs/train)")
    parser.add_argument("--by", choices=("nodes", "parameters"), required=True, help="what the horizontal axis is")
    parser.add_argument(
        "--measure", default="ensemble", metavar="MEASURE", help="what the vertical axis is (default: ensemble)"
    )
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="where to write (default: runs/report/accuracy)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Draw, and print the paths.

    Raises:
        DataError: there is no such folder, or no result in it of a training that has what is to be drawn.
        UsageError: there is no such measure.
    """
    from kdhpc.config.paths import final_root, report_dir
    from kdhpc.final.measures import parse_measures
    from kdhpc.final.summary import summarise_folder
    from kdhpc.report.accuracy import chart_accuracies
    from kdhpc.report.draw_accuracy import draw_chart

    measure, *more = parse_measures(args.measure)
    if more:
        raise UsageError(f"--measure {args.measure} is several: draw one at a time")
    folders = args.folders or [final_root()]
    summaries, where = summarise_folder(*folders), ", ".join(map(str, folders))
    folder = args.out or report_dir("accuracy")
    charts = chart_accuracies(summaries, args.by, measure)
    if not charts and any(summary.ensemble for summary in summaries):
        known = list(dict.fromkeys(name for summary in summaries for name in summary.scores if summary.measure(name)))
        there = f"there is {', '.join(known)}" if known else "`kdhpc evaluate` adds scores to older runs"
        raise DataError(f"no final training in {where} has {measure} for all seeds: {there}")
    if not charts:
        raise DataError(f"all final trainings in {where} diverged: nothing to draw")
    for chart in charts:
        validation = "" if chart.scored_on == "test" else f"-{chart.scored_on}"
        what = "" if measure == "ensemble" else f"-{measure.replace(':', '-')}"
        stem = f"{chart.dataset}{validation}{what}-by-{chart.by}"
        paths = tuple(folder / f"{stem}.{ending}" for ending in ("svg", "png"))
        draw_chart(chart, paths, ddof=1)
        print(*paths, sep="\n")
    return 0
