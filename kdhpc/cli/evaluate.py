"""``kdhpc evaluate``: finished trainings scored again, also against a second data set."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.network_argument import add_network_argument, import_networks
from kdhpc.cli.table import Table, show

if TYPE_CHECKING:
    from kdhpc.final.result import FinalResult

_DESCRIPTION = """\
Runs the networks of finished trainings over the images that they were scored on, and adds to each result.json what the
probabilities are worth: NLL, Brier score and calibration error of each node and the ensemble, and how often and how far
the nodes differ. A training does that itself at its end; this is for runs of older versions. Runs that have it already
are left as they are.

--ood NAME also measures how well the largest probability tells these images from the test images of another prepared
data set (AUROC: 0.5 not at all, 1 always). It may have other classes, sizes and colours: its images are brought to the
form that the run's are stored in. `kdhpc results --columns ...` shows the numbers, averaged over seeds.
"""
_EPILOG = """\
examples:
  kdhpc evaluate
  kdhpc evaluate runs/train/cifar10-resnet20-dml2 --ood svhn
  kdhpc results --columns ensemble,nll,ece,auroc
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="score final trainings again, also against a second data set",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="runs, or folders with runs (default: runs/train)"
    )
    parser.add_argument("--ood", metavar="NAME", help="a prepared data set whose test images are out of distribution")
    add_network_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate what has no scores yet, and print all scores.

    Raises:
        ConfigError: there is no finished run.
        DataError: the second data set is not prepared.
        KdhpcError: the only run, its weights or its images are damaged or not there.
    """
    from kdhpc.config.paths import final_root
    from kdhpc.data.progress import Progress
    from kdhpc.errors import KdhpcError
    from kdhpc.final.finished import find_finished
    from kdhpc.log import log_to_stderr
    from kdhpc.report.evaluating import SecondImages, evaluate, is_evaluated, warn_of_other_form

    log_to_stderr()
    import_networks(args.network)
    second = None if args.ood is None else SecondImages.prepared(args.ood)
    runs = find_finished(args.folders or [final_root()])
    results: list[FinalResult] = []
    failed: list[KdhpcError] = []
    with Progress(sys.stderr) as progress:
        for one in runs:
            if is_evaluated(one, second):
                progress.say(f"{one.paths.root} is evaluated already")
                results.append(one.result)
                continue
            try:
                if second is not None:
                    warn_of_other_form(one, second)
                results.append(evaluate(one, second, progress))
            except KdhpcError as exc:
                if len(runs) == 1:
                    raise
                progress.say(f"not evaluated: {exc}")
                failed.append(exc)
    if results:
        show(*_parts(results, args.ood))
    return failed[0].exit_code if failed else 0


def _parts(results: "list[FinalResult]", second: "str | None") -> "list[Table | str]":
    from kdhpc.final.measures import SCORES, decimals, value_of

    names = (*(("auroc",) if second else ()), *(name for name in SCORES if not name.startswith("node_")))
    rows = []
    for result in results:
        values = {name: value_of(f"auroc:{second}" if name == "auroc" else name, result) for name in names}
        cells = ["-" if value is None else f"{value:.{decimals(name)}f}" for name, value in values.items()]
        rows.append([result.name, str(result.seed), *cells])
    table = Table(head=("training", "seed", *names), rows=rows, spare=tuple(reversed(names[1:])))
    against = f"; auroc: against the test images of {second}" if second else ""
    return [table, "", f"of the ensemble, and disagreement and mutual_kl of its nodes{against}"]
