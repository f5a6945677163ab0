"""``kdhpc report search``: what a search found, as one page."""

import argparse

from kdhpc.cli.parser import output_folder, positive
from kdhpc.cli.study_argument import add_study_argument, chosen_study
from kdhpc.errors import UsageError

_PATIENCE_S = 5.0
_MOST_GRAPHS = 20
_DESCRIPTION = """\
Writes one page that tells what a search found, index.html, and its figures as SVG and PNG beside it. The page needs no
network and none of the other files. It shows the best value over trials and over GPU hours; learning curves of the best
trials beside the medians; how many trials reached each epoch; the best graphs; confirmed values and baselines; which
gates and designs the best trials use; where compute went; and the commands and the config.
The search may still run: the page shows how it stands. Changes nothing in the study. Prints the paths.
"""
_EPILOG = """\
examples:
  kdhpc report search --study mine
  kdhpc report search --study mine --top 5 --out figures
"""


def add_parser(reports: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = reports.add_parser(
        "search",
        help="what a search found, as one page with figures",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    parser.add_argument(
        "--top",
        type=positive,
        default=3,
        metavar="K",
        help="how many of the best graphs are drawn (default: 3, at most 20)",
    )
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="where to write (default: runs/report/search-<study>)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Write, and print the paths, the page's first.

    Raises:
        UsageError: more graphs than a page has room for.
        UnknownStudyError: the study does not exist.
        StorageError: the file system refuses.
    """
    from kdhpc.config.paths import report_dir
    from kdhpc.log import log_to_stderr
    from kdhpc.report.search_report import report_search
    from kdhpc.study.storage import Storage

    if args.top > _MOST_GRAPHS:
        raise UsageError(
            f"--top {args.top} is too much for a page, at most {_MOST_GRAPHS} graphs are drawn: "
            "`kdhpc export-best --top` writes as many as there are"
        )
    log_to_stderr()
    storage = Storage.connect(patience_s=_PATIENCE_S)
    name = chosen_study(args, storage)
    files = report_search(storage, name, args.out or report_dir(f"search-{name}"), top=args.top)
    print(files.page, *files.figures, sep="\n")
    return 0
