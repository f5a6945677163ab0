"""``kdhpc report attention``: what each node of a training looks at; of several trainings, on the same images."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.network_argument import add_network_argument, import_networks
from kdhpc.cli.parser import output_folder, positive
from kdhpc.cli.table import Part, Table, show

if TYPE_CHECKING:
    from kdhpc.report.examples import AttentionExamples

_DESCRIPTION = """\
Draws some test images (rows), and over each the attention map of each node of a finished training (columns): the
paper's Figure 7. Below a map are the node's prediction, marked right or wrong, and the entropy of its class
probabilities; above a column are its accuracy and its mean entropy on all test images, which are also printed. The
first column has the image, its number and class, and the ensemble's prediction.

Of several trainings, all see the same images. They are drawn beside each other, or below each other where nodes are
many: as in the figure, independent networks against a graph that was found. They must be scored on the same images.

A plain network's map is the mean over channels of its last stage's squared activations, an attention branch network's
is its sigmoid map. Colours go from each map's lowest to its highest value.
"""
_EPILOG = """\
examples:
  kdhpc report attention runs/train/dogs5-best/seed0
  kdhpc report attention runs/train/dogs5-best/seed0 --indices 17 204 3120 --out figures
  kdhpc report attention runs/train/dogs5-independent5/seed0 runs/train/dogs5-best/seed0
"""


_LONGEST = 120
"""Letters of a folder's name."""


def add_parser(reports: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = reports.add_parser(
        "attention",
        help="attention map, prediction and entropy of each node on some images (Figure 7)",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a run that is done, runs/train/NAME/seed<k>, or several"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--images", type=positive, metavar="K", help="the first image of each of K classes (default: 4, or all)"
    )
    choice.add_argument(
        "--indices",
        type=_index,
        nargs="+",
        metavar="I",
        help="numbers of the images, from 0, among those that are scored",
    )
    parser.add_argument(
        "--out",
        type=output_folder,
        metavar="DIR",
        help="where to write (default: runs/report/attention-<name>-seed<k>, several with -vs- between them)",
    )
    add_network_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Look, draw, and print the table and the paths.

    Raises:
        ConfigError: no finished run, one without attention maps, or runs that are not scored on the same images.
        UsageError: there are no such images, or more than a picture has room for.
        KdhpcError: the run, its weights or its images are damaged or not there.
    """
    from kdhpc.config.paths import report_dir
    from kdhpc.data.progress import Progress
    from kdhpc.final.finished import open_finished
    from kdhpc.log import log_to_stderr
    from kdhpc.report.attention import read_several
    from kdhpc.report.draw_attention import draw_comparison

    log_to_stderr()
    import_networks(args.network)
    finished = [open_finished(folder) for folder in args.folders]
    with Progress(sys.stderr) as progress:
        runs = read_several(finished, num_images=args.images, indices=args.indices, progress=progress)
    folder = args.out or report_dir(f"attention-{_joined([run.label for run in finished])}")
    paths = tuple(folder / f"attention.{ending}" for ending in ("svg", "png"))
    draw_comparison(runs, paths)
    show(*_parts(runs))
    print(*paths, sep="\n")
    return 0


def _joined(labels: Sequence[str]) -> str:
    """Names of runs as one folder's; of many, the first one's, and something that tells the others apart."""
    joined = "-vs-".join(labels)
    if len(joined) <= _LONGEST:
        return joined
    return f"{labels[0][:_LONGEST]}-vs-{len(labels) - 1}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"


def _parts(runs: "Sequence[AttentionExamples]") -> list[Part]:
    rows = []
    for examples in runs:
        names = [f" ({network})" for network in examples.networks] or [""] * len(examples.nodes)
        nodes = [f"node {at}{name}" for at, name in enumerate(names, start=1)]
        overalls = zip((*nodes, "ensemble"), (*examples.nodes, examples.ensemble), strict=True)
        of_run = (examples.name,) if len(runs) > 1 else ()
        rows += [(*of_run, name, f"{all_.accuracy:.2f}", f"{all_.entropy:.4f}") for name, all_ in overalls]
    first = runs[0]
    note = f"top-1 in percent, entropy in nats, of {first.num_images:,} {first.scored_on} images"
    return [Table(head=(*(("run",) if len(runs) > 1 else ()), "", "accuracy", "mean entropy"), rows=rows), "", note]


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
