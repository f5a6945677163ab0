"""What Tab offers. A shell waits for it, so nothing here imports torch or Hydra, nor waits for anything for long."""

import argparse
import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from kdhpc.errors import KdhpcError

Completer = Callable[..., Iterable[str]]
_DATABASE_S = 0.8
"""Longest time to wait for the database's list of studies."""
_MAKE_STUDIES = ("search", "launch")
_FILES = (
    *("--attention", "--config-dir", "--csv", "--graph", "--json", "--out", "--teacher"),
    *("config", "folder", "folders", "graphs", "images", "run", "source"),
)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that has asked for completions, and end the process."""
    from argcomplete.completers import SuppressCompleter
    from argcomplete.finders import CompletionFinder

    class Finder(CompletionFinder):
        def collect_completions(
            self, active_parsers: list[argparse.ArgumentParser], parsed_args: argparse.Namespace, cword_prefix: str
        ) -> list[str]:
            # argparse ends a list of overrides where an option begins; kdhpc takes more of them behind it.
            active: list[argparse.Action] = active_parsers[-1].active_actions  # type: ignore[attr-defined]
            active += [each for each in active_parsers[-1]._actions if each.dest == "overrides" and each not in active]
            return super().collect_completions(active_parsers, parsed_args, cword_prefix)

    add_completers(parser)
    Finder()(parser, default_completer=SuppressCompleter(), always_complete_options="long")


def add_completers(parser: argparse.ArgumentParser, command: str = "") -> None:
    """Say of each argument of a parser, and of those of its commands, what it may be."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                add_completers(below, command or name)
        elif completer := _completer(action, command):
            action.completer = completer  # type: ignore[attr-defined]  # argcomplete's way


def _completer(action: argparse.Action, command: str) -> Completer | None:
    from argcomplete.completers import FilesCompleter

    name = action.option_strings[-1] if action.option_strings else action.dest
    if name in ("--study", "study"):
        return lambda **_: _studies(command)
    if name == "overrides":
        return lambda prefix, parsed_args, **_: _overrides(prefix, command, getattr(parsed_args, "config_dir", None))
    if name in ("--graph", "graphs"):
        return lambda prefix, **_: [*_named_graphs(), *FilesCompleter()(prefix)]
    if name == "--ood" or (command == "data" and name == "name"):
        return lambda **_: _packed()
    return FilesCompleter() if name in _FILES else None


def _studies(command: str) -> Iterable[str]:
    """Studies that exist; to search, also the configs of studies."""
    from kdhpc.config.folders import config_names

    with contextlib.suppress(KdhpcError, OSError):
        known = _studies_in_the_database()
        names = set(_studies_on_the_disk() if known is None else known)
        return sorted(names | set(config_names("study") if command in _MAKE_STUDIES else ()))
    return ()


def _studies_on_the_disk() -> Iterable[str]:
    from kdhpc.config.paths import OWN_FOLDERS, runs_root

    if not runs_root().is_dir():
        return ()
    return [path.name for path in runs_root().iterdir() if path.is_dir() and path.name not in OWN_FOLDERS]


def _studies_in_the_database() -> Iterable[str] | None:
    """None: there is none, or it takes too long to answer."""
    from kdhpc.config.paths import server_dir

    if not (os.environ.get("KDHPC_STORAGE") or (server_dir() / "endpoint.json").exists()):
        return None
    found: list[Iterable[str]] = []

    def ask() -> None:
        from kdhpc.study.status import study_names
        from kdhpc.study.storage import Storage

        with contextlib.suppress(KdhpcError, OSError):
            found.append(study_names(Storage.connect(first_contact_s=_DATABASE_S, patience_s=_DATABASE_S)))

    # A connection to a machine that is silent takes minutes to fail, whatever it is told: it is left alone.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_DATABASE_S)
    return found[0] if found else None


def _named_graphs() -> Iterable[str]:
    from kdhpc.graph.presets import PRESETS
    from kdhpc.graph.zoo import zoo_names

    return [*PRESETS, *zoo_names()]


def _packed() -> Iterable[str]:
    from kdhpc.config.paths import data_root

    with contextlib.suppress(OSError):
        return sorted(path.name for path in data_root().iterdir() if path.is_dir() and not path.name.startswith("."))
    return ()


def _overrides(prefix: str, command: str, config_dir: Path | None) -> Iterable[str]:
    """Groups and keys, up to their ``=``; behind it, what they take."""
    from kdhpc.config.document import choices, defaults, root_defaults
    from kdhpc.config.schema import SearchConfig, TrainConfig

    kind = TrainConfig if command == "train" else SearchConfig
    groups = defaults(kind)
    key, equals, _ = prefix.partition("=")
    with contextlib.suppress(KdhpcError, OSError):
        if equals:
            group, dot, field = key.partition(".")
            values = choices(kind, group, field) if dot else _configs(key, config_dir) if key in groups else ()
            return [f"{key}={value}" for value in values]
        chosen = [group for group in groups if _configs(group, config_dir)]
        if not prefix:  # All keys at once are more than anybody reads.
            return [f"{group}=" for group in chosen]
        keys = [f"{group}.{field}=" for group, fields in groups.items() for field in fields]
        return [*(f"{name}=" for name in (*chosen, *root_defaults(kind))), *keys]
    return ()


def _configs(group: str, config_dir: Path | None) -> list[str]:
    from kdhpc.config.folders import config_names

    more = {"dataset": _packed(), "network": ("torchvision/", "timm/")}.get(group, ())
    return sorted({*config_names(group, config_dir), *more})
