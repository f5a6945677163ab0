"""``kdhpc report``: a page about a search; figures and tables of the paper from final trainings that are done."""

import argparse

from kdhpc.cli import report_accuracy, report_attention, report_graph, report_pairs, report_search

_DESCRIPTION = """\
What a search found, as one page; and figures and tables of the paper, from final trainings that are done. Prints the
paths of what it writes. `kdhpc results` has the tables of accuracies.
"""
_EPILOG = """\
examples:
  kdhpc report search --study mine
  kdhpc report pairs runs/train/cifar10-resnet20-independent1
  kdhpc report graph runs/train/dogs5-best
  kdhpc report attention runs/train/dogs5-best/seed0 --images 4
  kdhpc report accuracy --by nodes
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser(
        "report",
        help="tell what a search found; draw the paper's figures",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    reports = parser.add_subparsers(dest="report", metavar="REPORT", required=True)
    for report in (report_search, report_pairs, report_graph, report_attention, report_accuracy):
        report.add_parser(reports)
