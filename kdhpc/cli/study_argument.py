"""``--study``, which may be left out."""

import argparse
import os
from typing import TYPE_CHECKING

from kdhpc.errors import UnknownStudyError, UsageError

if TYPE_CHECKING:
    from kdhpc.study.storage import Storage


def add_study_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--study``."""
    parser.add_argument("--study", metavar="NAME", help="the study (default: $KDHPC_STUDY, else the only one)")


def named_study(args: argparse.Namespace) -> str | None:
    """The study that ``--study``, else ``$KDHPC_STUDY``, names; None: neither does."""
    return args.study or os.environ.get("KDHPC_STUDY") or None


def chosen_study(args: argparse.Namespace, storage: "Storage") -> str:
    """The study that is meant: ``--study``, else ``$KDHPC_STUDY``, else the only one in the database.

    Raises:
        UsageError: none is named, and there are none or several.
        UnknownStudyError: the one that is named is not there; the message names the nearest that are.
    """
    from kdhpc.study.status import study_names
    from kdhpc.study.study_rows import listed_studies, unknown_study

    named, names = named_study(args), study_names(storage)
    if named in names:
        return named
    if named is not None:
        raise UnknownStudyError(unknown_study(named, names))
    if len(names) == 1:
        return names[0]
    if not names:
        raise UsageError("there is no study yet: make one with `kdhpc search --study NAME`")
    raise UsageError(f"several studies: choose one with --study NAME: {listed_studies(names)}")
