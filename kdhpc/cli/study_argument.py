"""``--study``, which may be left out."""

import argparse
import os
from typing import TYPE_CHECKING

from kdhpc.errors import UsageError

if TYPE_CHECKING:
    from kdhpc.study.storage import Storage


def add_study_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--study``."""
    parser.add_argument("--study", metavar="NAME", help="the study (default: $KDHPC_STUDY, else the only one)")


def chosen_study(args: argparse.Namespace, storage: "Storage") -> str:
    """The study that is meant: ``--study``, else ``$KDHPC_STUDY``, else the only one in the database.

    Raises:
        UsageError: none is named, and there are none or several.
    """
    from kdhpc.study.status import study_names

    named: str | None = args.study or os.environ.get("KDHPC_STUDY")
    if named:
        return named
    names = study_names(storage)
    if len(names) == 1:
        return names[0]
    if not names:
        raise UsageError("there is no study yet: make one with `kdhpc search --study NAME`")
    raise UsageError(f"several studies: choose one with --study NAME: {', '.join(names)}")
