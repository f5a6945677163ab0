"""``kdhpc export-best``: the best graphs of a study as files."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.parser import output_folder, positive
from kdhpc.cli.study_argument import add_study_argument, chosen_study

if TYPE_CHECKING:
    from kdhpc.study.storage import Storage

_PATIENCE_S = 5.0
_DESCRIPTION = """\
Writes, for each of the best complete trials, the graph as JSON (with where it comes from) and drawn as SVG and PNG, and
one CSV with a row each. Prints the paths. The best graph is also <study>-best.json, whatever its trial's number.
Graphs that `kdhpc confirm` has trained again rank first, by the mean of these trainings. On stderr stands by how much
the best graph is better than the study's baselines.
`kdhpc train --graph FILE.json` trains a graph with any network and data set; the networks of such a training are
written by `kdhpc export`.
"""
_EPILOG = """\
examples:
  kdhpc export-best --study mine
  kdhpc export-best --study mine --top 5 --out figures
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export-best",
        help="write the best graphs: JSON, drawings, CSV",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    parser.add_argument("--top", type=positive, default=1, metavar="K", help="how many graphs (default: 1)")
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="where to write (default: runs/<study>/export)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Export, and print the paths."""
    from kdhpc.study.storage import Storage

    storage = Storage.connect(patience_s=_PATIENCE_S)
    export_best(storage, chosen_study(args, storage), args.top, args.out)
    return 0


def export_best(storage: "Storage", name: str, top: int, folder: Path | None = None) -> None:
    """Export a study's best graphs, and print the paths.

    Raises:
        StudyError: no trial is complete.
    """
    from kdhpc.config.goals import GOALS
    from kdhpc.config.paths import StudyPaths
    from kdhpc.errors import StudyError
    from kdhpc.searching.export import export_trials
    from kdhpc.study.ranking import estimate_words, lead_line
    from kdhpc.study.status import read_status, top_trials
    from kdhpc.study.study import SharedStudy

    study = SharedStudy.open(storage, name)
    trials = top_trials(storage, name, top)
    if not trials:
        counts = study.progress()
        diverged = f", {counts.diverged} of {counts.target} diverged" if counts.diverged else ""
        yet = " yet" if counts.unfinished else ""
        raise StudyError(
            f"study {name!r} has no complete trial{yet}{diverged}: nothing to export "
            f"(see `kdhpc status --study {name}`)"
        )
    if len(trials) < top:
        print(
            f"kdhpc: --top {top}: study {name} has {len(trials)} complete trials with different graphs so far, these "
            "are exported",
            file=sys.stderr,
        )
    exported, table = export_trials(study.definition, trials, folder or StudyPaths.of(name).export, study_uid=study.uid)
    for files in exported:
        print(files.graph, files.svg, files.png, sep="\n")
    print(table)
    best, goal = trials[0], GOALS[study.definition.goal]
    if best.confirmed is not None:
        told = (
            f"trial {best.number}: {goal.shown(best.value)} in the search, confirmed "
            f"{estimate_words(best.confirmed, goal)}"
        )
        print(f"kdhpc: {told}", file=sys.stderr)
    status = read_status(storage, name)
    if lead := lead_line(status.lead, name, goal, diverged=status.diverged_given):
        print(f"kdhpc: {lead}", file=sys.stderr)
