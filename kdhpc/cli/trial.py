"""``kdhpc trial``: what became of one trial. Reads only, but for ``--out``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.parser import refuse_other_file
from kdhpc.cli.study_argument import add_study_argument, chosen_study

if TYPE_CHECKING:
    from kdhpc.study.trial_history import KnownTrial

_PATIENCE_S = 5.0
_DESCRIPTION = """\
Tells one trial's story: its graph, drawn in text; what it has reported, beside
the medians of the other trials at the same epochs; why it was pruned, or has
failed; which workers trained it, where and when; and where its files are. The
last line is the command that trains its graph alone, on all images.
Changes nothing.
"""
_EPILOG = """\
examples:
  kdhpc trial 17                     of the only study, or of $KDHPC_STUDY
  kdhpc trial given 1 --study mine   a baseline, as `kdhpc status` names it
  kdhpc trial 17 --out graph.json    also its graph, for `kdhpc train --graph`
  kdhpc logs --trial 17              what its workers said of it
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "trial",
        help="what became of one trial",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("trial", nargs="+", metavar="N", help="number of the trial; of a given one as `given 1` or -1")
    add_study_argument(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write its graph there")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.set_defaults(func=run)


def trial_of(words: list[str]) -> int:
    """The number that the words of an argument mean.

    Raises:
        UsageError: they mean none.
    """
    from kdhpc.errors import UsageError
    from kdhpc.study.numbers import trial_number

    number = trial_number(" ".join(words))
    if number is None:
        raise UsageError(
            f"'{' '.join(words)}' is no trial: give the number of one, as 17, or `given 1` for the first given one"
        )
    return number


def run(args: argparse.Namespace) -> int:
    """Tell it."""
    from kdhpc.cli.table import show
    from kdhpc.cli.trial_pages import trial_document, trial_page
    from kdhpc.files.json_text import strict_json
    from kdhpc.searching.worker_logs import logs_of_attempt, read_logs
    from kdhpc.study.storage import Storage
    from kdhpc.study.trial_history import read_history

    number = trial_of(args.trial)
    storage = Storage.connect(patience_s=_PATIENCE_S)
    known = read_history(storage, chosen_study(args, storage), number)
    if args.out is not None:
        refuse_other_file(args.out)
        _write(known, args.out)
    logs = read_logs(known.history.study)
    found = tuple(logs_of_attempt(logs, attempt) for attempt in known.history.attempts)
    if args.format == "json":
        print(strict_json(trial_document(known, found, written=args.out), indent=2))
    else:
        show(*trial_page(known, found, written=args.out))
    return 0


def _write(known: "KnownTrial", path: Path) -> None:
    """Its graph, with where it comes from.

    Raises:
        StudyError: it has none yet.
    """
    from kdhpc.errors import StudyError
    from kdhpc.graph.serial import write_graph
    from kdhpc.searching.export import named_graph, origin

    definition, history = known.definition, known.history
    if history.graph is None:
        raise StudyError(f"the graph of trial {history.number} is still to be chosen: there is none to write")
    result = {} if history.value is None else {"value": history.value}
    provenance = origin(definition, history.number, history.graph, known.study_uid, result)
    write_graph(path, named_graph(definition, history.graph), provenance, definition.plugins)
