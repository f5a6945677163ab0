"""``python -m tools.command_page`` writes docs/commands.md: the help page of every command."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from kdhpc.cli.main import build_parser

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
_COLUMNS = 80
_HEAD = """\
# All commands

What `kdhpc COMMAND --help` says. `python -m tools.command_page` writes this page: do not edit it.
"""


def command_page() -> str:
    """The page, as it is now."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(_COLUMNS)
    try:
        sections = [f"## {name}\n\n```text\n{parser.format_help().rstrip()}\n```\n" for name, parser in commands()]
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n".join([_HEAD, *sections])


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command and group of commands with its name, in the order of the help page."""
    parser = build_parser()
    yield "kdhpc", parser
    yield from _below(parser, "kdhpc")


def _below(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield f"{name} {word}", command
                yield from _below(command, f"{name} {word}")


if __name__ == "__main__":
    PAGE.write_text(command_page(), encoding="utf-8")
