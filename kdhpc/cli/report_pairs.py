"""``kdhpc report pairs``: do networks that differ more gain more as an ensemble?"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.network_argument import add_network_argument, import_networks
from kdhpc.cli.parser import output_folder
from kdhpc.errors import UsageError
from kdhpc.words import counted

if TYPE_CHECKING:
    from kdhpc.final.finished import FinishedRun

_DESCRIPTION = """\
Takes every pair of networks of some finished trainings, and compares how far the two differ with what an ensemble of
the two gains: the paper's Table 1 and Figure 2, there of 100 networks that were trained independently.

  mutual KL = 1/2 (KL(p1 || p2) + KL(p2 || p1)), mean over the scored images, in nats (Eq. 1)
  gain = accuracy of the mean of the two's logits - mean of the two's accuracies, in percentage points (Eq. 2)

Prints the number of networks and pairs, and Pearson's correlation coefficient. Writes pairs.csv, a row for each pair,
and pairs.svg and .png with the regression line. All networks must be scored on the same images.
"""
_EPILOG = """\
example, ten networks of one kind:
  kdhpc train --graph independent --nodes 1 --seeds 0..9 dataset=cifar10 network=resnet20 training=paper_cifar
  kdhpc report pairs runs/train/cifar10-resnet20-independent1
"""
_MIN_NETWORKS = 3


def add_parser(reports: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = reports.add_parser(
        "pairs",
        help="how the difference of two networks correlates with the gain of their ensemble (Table 1, Figure 2)",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="a run, runs/train/NAME/seed<k>, or a folder with runs, such as runs/train/NAME; all their nodes count",
    )
    parser.add_argument(
        "--out",
        type=output_folder,
        metavar="DIR",
        help="where to write (default: runs/report/pairs-<data set>-<network>)",
    )
    add_network_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Compare, write, and print the coefficient and the paths.

    Raises:
        ConfigError: no run, runs whose nodes are no networks of their own, or runs not scored on the same images.
        UsageError: fewer than three networks.
        KdhpcError: a run, its weights or its images are damaged or not there.
    """
    from kdhpc.config.networks import network_folder
    from kdhpc.config.paths import report_dir
    from kdhpc.data.progress import Progress
    from kdhpc.files.writing import write_whole
    from kdhpc.final.finished import find_finished
    from kdhpc.log import log_to_stderr
    from kdhpc.report.correlation import fit_line, pairs_table
    from kdhpc.report.draw_pairs import draw_pairs
    from kdhpc.report.pairs import compare_pairs
    from kdhpc.report.predictions import choose_networks, device_here, read_predictions

    log_to_stderr()
    import_networks(args.network)
    runs = find_finished(args.folders)
    chosen = choose_networks(runs)
    _check_number(sum(len(choice.nodes) for choice in chosen))
    with Progress(sys.stderr) as progress:
        predictions = read_predictions(chosen, progress)
        pairs = compare_pairs(predictions, device_here(), progress)
    line = fit_line(pairs)

    dataset, network = runs[0].result.dataset, _network(runs)
    folder = args.out or report_dir(f"pairs-{dataset}-{network_folder(network)}")
    table, svg, png = (folder / f"pairs.{ending}" for ending in ("csv", "svg", "png"))
    write_whole(table, pairs_table(pairs))
    draw_pairs(pairs, line, (svg, png), title=f"{dataset}, {network}", scored_on=runs[0].result.scored_on)
    found = "not defined, as all pairs differ or gain by the same" if line is None else f"{line.r:.3f}"
    size = f"{counted(len(pairs.networks), 'network')}, {counted(len(pairs.first), 'pair')}"
    print(f"{dataset}, {network}: {size}, Pearson's r = {found}")
    print(table, svg, png, sep="\n")
    return 0


def _check_number(num_networks: int) -> None:
    if num_networks < _MIN_NETWORKS:
        pairs = "networks make 1 pair" if num_networks == 2 else "network makes no pair"
        raise UsageError(
            f"{num_networks} {pairs}, a correlation needs at least 3 pairs: name runs with 3 networks or more in all"
        )


def _network(runs: "Sequence[FinishedRun]") -> str:
    """Of all networks, or that there are several."""
    names = {run.result.network for run in runs}
    return names.pop() if len(names) == 1 else "several-networks"
