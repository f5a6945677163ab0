"""``kdhpc results --ensemble greedy``: an ensemble of networks of finished runs, chosen on held-out images."""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.network_argument import import_networks
from kdhpc.cli.table import Part, Table, show
from kdhpc.files.json_text import strict_json

if TYPE_CHECKING:
    from kdhpc.report.greedy import GreedyEnsemble


def run(folders: Sequence[Path], num_members: int, networks: Sequence[str], form: str) -> int:
    """Choose, score, and print.

    Raises:
        KdhpcError: as `kdhpc.report.greedy.choose_greedily`.
    """
    from kdhpc.data.progress import Progress
    from kdhpc.log import log_to_stderr
    from kdhpc.report.greedy import choose_greedily

    log_to_stderr()
    import_networks(networks)
    with Progress(sys.stderr) as progress:
        found = choose_greedily(folders, num_members, progress)
    if form == "json":
        print(strict_json(dataclasses.asdict(found), indent=2))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows(
            [("ensemble", "networks", "held_out", "test", "nll", "brier", "ece"), *_rows(found, exact=True)]
        )
    else:
        show(*_parts(found), as_markdown=form == "markdown")
    return 0


def _parts(found: "GreedyEnsemble") -> list[Part]:
    rows = _rows(found, exact=False)
    members = [
        (str(place), member.network, f"{member.held_out_accuracy:.2f}", f"{member.ensemble_held_out_accuracy:.2f}")
        for place, member in enumerate(found.members, start=1)
    ]
    return [
        Table(
            head=("", "networks", "held-out", "test", "nll", "brier", "ece"), rows=rows, spare=("brier", "ece", "nll")
        ),
        "",
        Table(head=("", "member", "alone", "ensemble so far"), rows=members),
        "",
        f"best run: {found.best_run.name}, by its accuracy on the held-out images",
        f"top-1 in percent: members were chosen on {found.held_out_images:,} held-out training images of "
        f"{found.dataset}; test, nll, brier and ece are of its {found.test_images:,} test images, which chose nothing",
    ]


def _rows(found: "GreedyEnsemble", *, exact: bool) -> list[tuple[str, ...]]:
    rows = []
    best = found.best_run.name if exact else "best run"
    for name, one in (
        (found.greedy.name, found.greedy),
        (best, found.best_run),
        (found.all_networks.name, found.all_networks),
    ):
        quality = one.scores.ensemble
        accuracies = (one.held_out_accuracy, one.test_accuracy)
        scores = (quality.nll, quality.brier, quality.ece)
        shown = (
            map(str, (*accuracies, *scores))
            if exact
            else (*(f"{value:.2f}" for value in accuracies), *(f"{value:.4f}" for value in scores))
        )
        rows.append((name, str(one.num_networks), *shown))
    return rows
