"""``kdhpc studies``: all studies of the database. Reads only."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdhpc.cli.moments import ago
from kdhpc.cli.table import Table, show
from kdhpc.config.goals import GOALS

if TYPE_CHECKING:
    from kdhpc.study.study_list import StudyEntry

_PATIENCE_S = 5.0
_DESCRIPTION = """\
Lists the studies of the database: how far each is, its best trial, when a
worker last gave a sign of life, and what it trains. Changes nothing.
`kdhpc status --study NAME` says more of one.
"""
_EPILOG = """\
example:
  kdhpc studies

  study   state    trials    best     trial  last        data     networks
  dogs4   running  211/6000  73.10 %  87     4 s ago     dogs     4 x resnet18
  mine    done     16/16     71.20 %  3      2 days ago  cifar10  2 x resnet8

states:
  waiting       trials are left, and no worker is there
  stopping      `kdhpc stop` was called, and workers still write checkpoints
  stopped       nothing is trained until somebody goes on with it
  out of hours  study.max_gpu_hours are used, so that no trial begins
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "studies",
        help="all studies of the database",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    from kdhpc.files.json_text import strict_json
    from kdhpc.study.storage import Storage
    from kdhpc.study.study_list import read_studies

    studies = read_studies(Storage.connect(patience_s=_PATIENCE_S))
    if args.format == "json":
        print(strict_json([dataclasses.asdict(study) for study in studies], indent=2))
    elif studies:
        show(_table(studies))
    else:
        print("there is no study yet: make one with `kdhpc search --study NAME`")
    return 0


def _table(studies: "Sequence[StudyEntry]") -> Table:
    rows = [
        (
            study.study,
            study.state,
            f"{study.finished}/{study.target}{f' ({study.failed} FAILED)' if study.failed else ''}",
            *_best(study),
            ago(study.quiet_s),
            study.dataset,
            study.network
            if study.num_nodes is None or "+" in study.network
            else f"{study.num_nodes} x {study.network}",
        )
        for study in studies
    ]
    head = ("study", "state", "trials", "best", "trial", "last", "data", "networks")
    return Table(head=head, rows=rows, spare=("trial", "networks", "data", "last"))


def _best(study: "StudyEntry") -> tuple[str, str]:
    """Value and trial."""
    best = study.best
    if best is None:
        return "-", "-"
    value = best.value if best.confirmed is None else best.confirmed.mean
    goal = GOALS.get(study.goal)
    # A newer kdhpc may have other goals.
    shown = f"{study.goal} {value:g}" if goal is None else goal.named(value)
    return f"{shown}{'' if best.confirmed is None else ' (confirmed)'}", str(best.number)
