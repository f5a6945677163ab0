"""``kdhpc report attention``: what each node of a training looks at."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.parser import output_folder, positive
from kdhpc.cli.table import Part, Table, show

if TYPE_CHECKING:
    from kdhpc.report.examples import AttentionExamples

_DESCRIPTION = """\
Draws some test images (rows), and over each the attention map of each node of a finished training (columns): the
paper's Figure 7. Below a map are the node's prediction, marked right or wrong, and the entropy of its class
probabilities; above a column are its accuracy and its mean entropy on all test images, which are also printed. The
first column has the image, its number and class, and the ensemble's prediction.

A plain network's map is the mean over channels of its last stage's squared activations, an attention branch network's
is its sigmoid map. Colours go from each map's lowest to its highest value.
"""
_EPILOG = """\
examples:
  kdhpc report attention runs/train/dogs5-best/seed0
  kdhpc report attention runs/train/dogs5-best/seed0 --indices 17 204 3120 --out figures
"""


def add_parser(reports: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = reports.add_parser(
        "attention",
        help="attention map, prediction and entropy of each node on some images (Figure 7)",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run that is done, runs/train/NAME/seed<k>")
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
        help="where to write (default: runs/report/attention-<name>-seed<k>)",
    )
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="module:Name",
        help="your own network that a run was trained with: what a run's files name is not imported unasked",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Look, draw, and print the table and the paths.

    Raises:
        ConfigError: no finished run, or one of ONE.
        UsageError: there are no such images.
        KdhpcError: the run, its weights or its images are damaged or not there.
    """
    from kdhpc.config.paths import report_dir
    from kdhpc.data.progress import Progress
    from kdhpc.final.finished import open_finished
    from kdhpc.log import log_to_stderr
    from kdhpc.networks.own import register_imported
    from kdhpc.report.attention import read_attention
    from kdhpc.report.draw_attention import draw_attention

    log_to_stderr()
    for name in args.network:
        register_imported(name)
    finished = open_finished(args.folder)
    with Progress(sys.stderr) as progress:
        examples = read_attention(finished, num_images=args.images, indices=args.indices, progress=progress)
    folder = args.out or report_dir(f"attention-{finished.label}")
    paths = tuple(folder / f"attention.{ending}" for ending in ("svg", "png"))
    draw_attention(examples, paths)
    show(*_parts(examples))
    print(*paths, sep="\n")
    return 0


def _parts(examples: "AttentionExamples") -> list[Part]:
    names = [f" ({network})" for network in examples.networks] or [""] * len(examples.nodes)
    rows = [(f"node {at}{name}", node) for at, (node, name) in enumerate(zip(examples.nodes, names, strict=True), 1)]
    shown = [
        (name, f"{all_.accuracy:.2f}", f"{all_.entropy:.4f}") for name, all_ in [*rows, ("ensemble", examples.ensemble)]
    ]
    note = f"top-1 in percent, entropy in nats, of {examples.num_images:,} {examples.scored_on} images"
    return [Table(head=("", "accuracy", "mean entropy"), rows=shown), "", note]


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
