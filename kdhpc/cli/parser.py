"""The parser of every command: help pages that fit their terminal, and errors of one line that name what was meant."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kdhpc.cli.given_twice import StoreOnce
from kdhpc.cli.help_page import HelpPage
from kdhpc.errors import KdhpcError, UsageError, closest, nearest


class CommandParser(argparse.ArgumentParser):
    """A parser whose subcommands are of this class, too.

    The namespace that it fills has itself, or its subcommand's parser, as ``parser``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "formatter_class": HelpPage})
        self.register("type", int, _whole)
        for name in (None, "store"):
            self.register("action", name, StoreOnce)
        self.register("action", "parsers", _Commands)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage, and exit code 2. A group of commands without one shows its help page."""
        if _is_group_alone(self, message):
            self.print_help(sys.stderr)
            self.exit(2)
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")

    def refuse_word(self, word: str, argv: Sequence[str]) -> NoReturn:
        """Refuse a word that is neither an argument nor an option of this command, nor an override.

        Args:
            word: What nothing takes.
            argv: All words of the command line.
        """
        if not word.startswith("-"):
            self.error(f"unexpected argument {word!r}{self._meant_by(word)}")
        option, equals, value = word.partition("=")
        if option in ("--debug", "--version"):
            self.error(f"{option} stands before the command: kdhpc {option} {' '.join(self.prog.split()[1:])} ...")
        if not equals:
            after = argv[argv.index(word) + 1 :] if word in argv else []
            value = after[0] if after and not after[0].startswith("-") and "=" not in after[0] else "VALUE"
        self.error(f"unknown option {option}: {self._instead_of(option, value)}")

    def _meant_by(self, word: str) -> str:
        """What may have been meant by an argument too many."""
        has_study, has_overrides = ("--study" in self._option_string_actions, self._takes_overrides())
        if has_overrides and word in _config_keys(self.prog).get(word.rpartition(".")[2], ()):
            return f": a config key needs a value, as {word}=VALUE"
        if has_overrides:
            from kdhpc.config.folders import config_names

            groups = ("dataset", "network", "training")
            group = next((group for group in groups if word in config_names(group)), None)
            if group is not None:
                return f": did you mean {group}={word}?"
        if has_study:
            return f": did you mean --study {word}?"
        return ": config overrides are KEY=VALUE, as training.batch_size=32" if has_overrides else ""

    def _takes_overrides(self) -> bool:
        return any(action.dest == "overrides" for action in self._actions)

    def _instead_of(self, option: str, value: str) -> str:
        """What may have been meant by an option that does not exist."""
        options = [word for action in self._actions for word in action.option_strings if word.startswith("--")]
        if self._takes_overrides() and option.startswith("--"):
            name = option.removeprefix("--").replace("-", "_")
            keys = _config_keys(self.prog)
            # A key goes before an option that is only alike.
            if name in keys:
                return f"it is a config key, give {' or '.join(f'{key}={value}' for key in keys[name])}"
            own = [word.removeprefix("--").replace("-", "_") for word in options]
            like = closest(name, [*keys, *own])
            if like is not None and like not in own:
                return f"did you mean {' or '.join(f'{key}={value}' for key in keys[like])}?"
        return nearest(option, [word for word in options if word != "--help"])

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, but with the nearest choice."""
        if action.choices is not None and value not in action.choices:
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(
                None if what == "command" else action,
                f"unknown {what} {value!r}: {nearest(str(value), action.choices)}",
            )


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]  # of Python 3.10, it takes none at run time
    """The commands of a group: one without a description has its line of the group's page on its own page."""

    def add_parser(self, name: str, **settings: Any) -> Any:
        """Add one."""
        said = str(settings.get("help", ""))
        return super().add_parser(name, **{"description": f"{said[:1].upper()}{said[1:]}.", **settings})


def _is_group_alone(parser: argparse.ArgumentParser, message: str) -> bool:
    """Whether nothing is wrong but that a command which has subcommands was given none."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return bool(groups) and message.endswith(f"required: {groups[0].metavar}")


def _config_keys(prog: str) -> Mapping[str, list[str]]:
    """Keys and groups of a command's config, by the word that people may take for an option."""
    from kdhpc.config.document import defaults
    from kdhpc.config.schema import SearchConfig, TrainConfig

    found: dict[str, list[str]] = {}
    groups = defaults(TrainConfig if prog.endswith(" train") else SearchConfig)
    for group, fields in groups.items():
        for field in fields:
            found.setdefault(field, []).append(f"{group}.{field}")
    # `--device cuda` is the group, whose configs have the names that people give.
    return {**found, **{group: [group] for group in groups}}


def positive(text: str) -> int:
    """argparse type: a whole number above 0."""
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def output_folder(text: str) -> Path:
    """argparse type: a folder to write into, which may not exist yet.

    It is looked at before the work is done whose results are to be written.
    """
    path = Path(text)
    taken = next((place for place in (path, *path.parents) if place.exists()), None)
    if taken is not None and not taken.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be a folder to write into, {taken} is a file: name another")
    return path


def refuse_other_file(path: Path) -> None:
    """Refuse to write a graph's file over what is none.

    Raises:
        UsageError: there is such a file, or a folder.
    """
    from kdhpc.graph.serial import read_graph

    if not path.exists():
        return
    try:
        read_graph(path)
    except KdhpcError as exc:
        raise UsageError(f"--out {path} is not allowed: it exists, and is no graph's file: give another name") from exc


def output_file(text: str) -> Path:
    """argparse type: a file to write, which may not exist yet.

    It is looked at before the work is done whose results are to be written. What is no file, as ``/dev/null``, could
    not be replaced by one without harm.
    """
    path = Path(text)
    if text == "-":
        raise argparse.ArgumentTypeError("standard output is not for files: name a file (./- if it is to be called so)")
    if path.is_dir() or not path.name:
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is no regular file: name another")
    output_folder(str(path.parent))
    return path


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


_OVERRIDE = re.compile(r"[^-].*=|[~+]")


def is_override(word: str) -> bool:
    """Whether a word looks like ``key=value``."""
    return _OVERRIDE.match(word) is not None
