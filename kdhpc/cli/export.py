"""``kdhpc export``: a finished run as a folder that others can use without kdhpc."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kdhpc.bundle.formats import FORMATS
from kdhpc.cli.network_argument import add_network_argument, import_networks
from kdhpc.cli.parser import output_folder, positive

_USUAL_IMAGES = 64
_DESCRIPTION = """\
Writes the networks of a training that is done into a folder that somebody else can use: weights or a program, the
preprocessing, class names, the graph and its drawing, where all of it comes from, a model card (README.md), and use.py,
which classifies image files. Prints the paths.
Before the folder appears, it is loaded again and compared with the run's own networks on test images.
The best graphs of a search are written by `kdhpc export-best`.
"""
_EPILOG = """\
examples:
  kdhpc export runs/train/pets-resnet18-dml2/seed0 --format torch --out pets-ensemble
  kdhpc export runs/train/pets-resnet18-dml2 --seed 0 --node 2 --format onnx --out pets-node2
  python pets-ensemble/use.py PHOTOGRAPH.jpg
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help="write a trained ensemble for others to use: torch, ONNX, safetensors, timm",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a run that is done: runs/train/NAME/seed<k>, or its folder runs/train/NAME",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=tuple(FORMATS),
        help="; ".join(f"{name}: {one.what}" for name, one in FORMATS.items()),
    )
    parser.add_argument(
        "--out", required=True, type=output_folder, metavar="DIR", help="a new folder, or that of an earlier bundle"
    )
    parser.add_argument("--seed", type=int, metavar="K", help="of runs/train/NAME with several seeds, which one")
    parser.add_argument("--node", type=positive, metavar="N", help="one node alone, from 1 (default: all)")
    parser.add_argument(
        "--images",
        type=positive,
        default=_USUAL_IMAGES,
        metavar="K",
        help=f"how many images it is checked on (default: {_USUAL_IMAGES})",
    )
    add_network_argument(parser)
    parser.add_argument("--study", action=_OfExportBest, help=argparse.SUPPRESS)
    parser.set_defaults(func=run)


class _OfExportBest(argparse.Action):
    """An option of the command with the similar name: whoever gives it here is told so."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        """Refuse it."""
        parser.error(
            f"a run has no --study: the graphs of a search are written by `kdhpc export-best --study {values}`"
        )


def run(args: argparse.Namespace) -> int:
    """Export, and print the paths.

    Raises:
        UsageError: no finished run, no such node, or a folder that cannot be written into.
        BundleError: the run cannot be exported in this format.
        KdhpcError: the run or its weights are damaged.
    """
    from kdhpc.bundle.formats import check_packages
    from kdhpc.bundle.output import earlier_files
    from kdhpc.bundle.runs import chosen_run

    check_packages(args.format)
    folder = chosen_run(args.run, args.seed)
    earlier_files(args.out)
    # What is wrong with the arguments has been said by now: these import torch, which takes seconds.
    from kdhpc.bundle.export import export_run
    from kdhpc.final.finished import open_finished
    from kdhpc.log import log_to_stderr

    log_to_stderr()
    import_networks(args.network)
    node = None if args.node is None else args.node - 1
    bundle = export_run(open_finished(folder), args.format, args.out, node=node, num_images=args.images)
    print(*bundle.files, sep="\n")
    checked = bundle.checked
    why = f" ({checked.images.why})" if checked.images.why else ""
    print(f"kdhpc: checked on {checked.images.words}{why}: {checked.words}", file=sys.stderr)
    return 0
