"""``kdhpc retry``: another chance for trials that failed."""

import argparse
import sys

from kdhpc.cli.study_argument import add_study_argument, chosen_study

_PATIENCE_S = 5.0
_DESCRIPTION = """\
Makes failed trials available again, once the cause is fixed. They go on from their checkpoints where there are any, and
earlier attempts do not count. Workers that run take them up by themselves; otherwise `kdhpc search` or `kdhpc launch`
trains them.
"""
_EPILOG = """\
examples:
  kdhpc retry --study mine                         all failed trials
  kdhpc retry --study mine --trial 3 --trial 7     these two
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "retry",
        help="let failed trials be trained again",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    parser.add_argument(
        "--trial",
        type=int,
        action="extend",
        nargs="+",
        metavar="N",
        help="number of a failed trial; several can be given (default: all that failed, also outside the budget)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Free the slots, and say whose."""
    from kdhpc.study.numbers import trial_label
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy

    storage = Storage.connect(patience_s=_PATIENCE_S)
    study = SharedStudy.open(storage, chosen_study(args, storage))
    name, numbers = study.definition.name, study.retry(args.trial)
    if numbers:
        shown = ", ".join(map(trial_label, numbers))
        print(f"study {name}: to be trained again: {shown}; `kdhpc search --study {name}` goes on", file=sys.stderr)
    else:
        print(f"study {name}: no trial has failed", file=sys.stderr)
    return 0
