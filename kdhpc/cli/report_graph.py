"""``kdhpc report graph``: a training's graph, with the accuracies of its nodes and of the ensemble."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.parser import output_folder
from kdhpc.cli.table import Part, Table, show

if TYPE_CHECKING:
    from kdhpc.report.graph_accuracies import GraphAccuracies

_DESCRIPTION = """\
Draws the graph of a final training that is done, with the accuracy of each node and of the ensemble on the test images:
the paper's Figure 6. Edges say their loss and their gate; cut off ones are left out. Given a folder with several seeds,
the numbers are mean and standard deviation over those that are done and did not diverge (ddof 1).

Writes graph.svg and .png, and the numbers of each seed as graph.json and graph.csv.
"""
_EPILOG = """\
examples:
  kdhpc report graph runs/train/dogs5-best               over all its seeds
  kdhpc report graph runs/train/dogs5-best/seed0 --out figures
"""
_PLUGIN_REMEDY = "give --plugin {names}"


def add_parser(reports: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = reports.add_parser(
        "graph",
        help="a training's graph with the accuracies of its nodes and ensemble (Figure 6)",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="a training, runs/train/NAME, or one run of it, runs/train/NAME/seed<k>",
    )
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="where to write (default: runs/report/graph-<name>)"
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="plug-in that a design or gate of the graph is of; can be repeated",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Draw, and print the table and the paths.

    Raises:
        KdhpcError: as :func:`kdhpc.report.graph_accuracies.read_graph_accuracies`.
    """
    from kdhpc.config.paths import report_dir
    from kdhpc.files.json_text import strict_json
    from kdhpc.files.writing import write_whole
    from kdhpc.final.summary import spread
    from kdhpc.graph.drawing import draw_graph
    from kdhpc.graph.plugins import load_plugins
    from kdhpc.log import log_to_stderr
    from kdhpc.report.graph_accuracies import accuracies_table, caption, document, read_graph_accuracies

    log_to_stderr()
    load_plugins(args.plugin)
    report = read_graph_accuracies(args.folder, plugin_remedy=_PLUGIN_REMEDY)
    folder = args.out or report_dir(f"graph-{report.label}")
    svg, png, numbers, table = (folder / f"graph.{ending}" for ending in ("svg", "png", "json", "csv"))
    nodes, ensemble = [spread(found) for found in report.nodes], spread(report.ensemble)
    deviations = [node.std for node in nodes if node.std is not None]
    draw_graph(
        report.graph,
        (svg, png),
        title=report.result.name,
        node_accuracies=[node.mean for node in nodes],
        ensemble_accuracy=ensemble.mean,
        node_deviations=deviations or None,
        ensemble_deviation=ensemble.std,
        caption=caption(report),
    )
    write_whole(numbers, strict_json(document(report), indent=2), "\n")
    write_whole(table, accuracies_table(report))
    show(*_parts(report))
    print(svg, png, numbers, table, sep="\n")
    return 0


def _parts(report: "GraphAccuracies") -> list[Part]:
    from kdhpc.final.summary import spread
    from kdhpc.report.graph_accuracies import caption

    rows = []
    for name, network, found in report.rows:
        numbers = spread(found)
        deviation = "" if numbers.std is None else f" ± {numbers.std:.2f}"
        rows.append((name, network or "-", f"{numbers.mean:.2f}{deviation}"))
    return [Table(head=("", "network", "accuracy"), rows=rows), "", caption(report)]
