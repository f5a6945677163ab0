"""``--network module:Name``: networks of somebody's own, for commands that open finished runs."""

import argparse
from collections.abc import Iterable


def add_network_argument(parser: argparse.ArgumentParser, *, only_with: str = "") -> None:
    """Add ``--network``, which can be repeated.

    Args:
        parser: Of the command.
        only_with: The option without which it means nothing; empty: it always means something.
    """
    what = "your own network that a run was trained with"
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="module:Name",
        help=f"with {only_with}: {what}" if only_with else f"{what}: what a run's files name is not imported unasked",
    )


def import_networks(names: Iterable[str]) -> None:
    """Import those that ``--network`` names. This imports torch.

    Raises:
        NetworkError: one cannot be imported, or is no network.
    """
    from kdhpc.networks.own import register_imported

    for name in names:
        register_imported(name)
