"""Which study, config and budget a command that searches means by its arguments."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdhpc.config.schema import SearchConfig, check_study_name
from kdhpc.errors import DatabaseError, UnknownStudyError, UsageError, nearest

Executor = Literal["local", "slurm"]
OPTION_KEYS = {"workers": "cluster.workers", "trials": "study.trials"}
"""The config key that each option of commands that search stands for."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asks for."""

    name: str
    """The study."""
    config: SearchConfig
    """Its config."""
    trials: int | None
    """The budget that the user gave; None: an existing study keeps its own, a new one has the config's."""


def add_search_study_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--study``."""
    parser.add_argument(
        "--study",
        metavar="NAME",
        help="the study; names its config, too, unless study=CONFIG does (default: study=CONFIG, else $KDHPC_STUDY)",
    )


def study_name(args: argparse.Namespace) -> str:
    """``--study``, else the ``study=CONFIG`` override, else ``$KDHPC_STUDY``.

    Raises:
        UsageError: none of them is given, or the name cannot be used.
    """
    chosen = [override.partition("=")[2] for override in args.overrides if override.startswith("study=")]
    named: str | None = args.study or next(iter(chosen), None) or os.environ.get("KDHPC_STUDY")
    if not named:
        raise UsageError("no study is named: give --study NAME, or study=CONFIG, or set KDHPC_STUDY")
    return check_study_name(named)


def study_of_environment(args: argparse.Namespace) -> str | None:
    """``$KDHPC_STUDY``, if a command with ``--study`` means that one; None: it does not, or there is none."""
    named = getattr(args, "study", "") or _chooses("study", getattr(args, "overrides", ()))
    return None if named or not hasattr(args, "study") else os.environ.get("KDHPC_STUDY")


def wanted_study(args: argparse.Namespace, *, executor: Executor) -> Wanted:
    """The study, config and budget of a command with ``--study``, ``--workers``, ``--trials`` and overrides.

    Args:
        args: The command's.
        executor: Where its workers run; also the config of the group ``cluster`` where no override names one.

    Raises:
        UsageError: no study is named, there is neither a config nor a study of that name, or the workers are to run
            elsewhere.
        ConfigError: an override that cannot be meant.
    """
    name = study_name(args)
    overrides: list[str] = list(args.overrides)
    if args.workers is not None:
        overrides.append(f"cluster.workers={args.workers}")
    if args.trials is not None:
        overrides.append(f"study.trials={args.trials}")
    config = _study_config(name, overrides, args.config_dir, executor)
    if config.cluster.executor != executor:
        raise UsageError(
            f"cluster.executor={config.cluster.executor} is not allowed here: `kdhpc search` takes local, `kdhpc "
            "launch` slurm"
        )
    gives_trials = any(override.lstrip("+").startswith("study.trials=") for override in overrides)
    return Wanted(name=name, config=config, trials=config.study.trials if gives_trials else None)


def _study_config(name: str, overrides: Sequence[str], config_dir: Path | None, executor: Executor) -> SearchConfig:
    """The config of a ``study=CONFIG`` override, else of the study's own name, else what the study was made with."""
    from kdhpc.config.compose import compose_search
    from kdhpc.config.folders import config_names

    groups = [] if _chooses("cluster", overrides) else [f"cluster={executor}"]
    names = config_names("study", config_dir)
    if _chooses("study", overrides):
        return compose_search([*groups, *overrides], config_dir=config_dir)
    if name in names:
        return compose_search([*groups, f"study={name}", *overrides], config_dir=config_dir)
    try:
        return stored_study_config(name, [*groups, *overrides], config_dir)
    except (UnknownStudyError, DatabaseError) as exc:
        raise UsageError(
            f"unknown study {name!r}: no config has that name ({nearest(name, names)}), and {exc}"
        ) from exc


def _chooses(group: str, overrides: Sequence[str]) -> bool:
    return any(override.startswith(f"{group}=") for override in overrides)


def stored_study_config(name: str, overrides: Sequence[str], config_dir: Path | None = None) -> SearchConfig:
    """What an existing study was made with; how it is run is as for every study, by the config's files and overrides.

    Raises:
        UnknownStudyError: there is no such study.
        ConfigError: as :func:`kdhpc.config.compose.compose_config`.
    """
    from kdhpc.config.compose import compose_search
    from kdhpc.searching.plan import stored_groups
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy

    given = stored_groups(SharedStudy.open(Storage.connect(), name))
    return compose_search(overrides, config_dir=config_dir, given=given)
