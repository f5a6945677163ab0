"""Which config a command means by a study's name and overrides."""

from collections.abc import Sequence
from pathlib import Path

from kdhpc.config.schema import SearchConfig
from kdhpc.errors import DatabaseError, UnknownStudyError, UsageError, nearest


def study_config(
    name: str, overrides: Sequence[str], config_dir: Path | None = None, *, cluster: str = "local"
) -> SearchConfig:
    """The config of a ``study=CONFIG`` override, else of the study's own name, else what the study was made with.

    Args:
        name: Of the study.
        overrides: The user's.
        config_dir: As for :func:`kdhpc.config.compose.config_dirs`.
        cluster: Config of the group ``cluster`` that is meant where no override names one; also the executor.

    Raises:
        UsageError: there is neither such a file nor such a study.
        ConfigError: an override that cannot be meant.
    """
    from kdhpc.config.compose import compose_search, config_names

    groups = [] if _chooses("cluster", overrides) else [f"cluster={cluster}"]
    names = config_names("study", config_dir)
    if name in names and not _chooses("study", overrides):
        groups.append(f"study={name}")
    if name in names or _chooses("study", overrides):
        return compose_search([*groups, *overrides], config_dir=config_dir)
    try:
        return stored_study_config(name, [f"cluster.executor={cluster}", *overrides])
    except (UnknownStudyError, DatabaseError) as exc:
        raise UsageError(
            f"unknown study {name!r}: no config has that name ({nearest(name, names)}), and {exc}"
        ) from exc


def _chooses(group: str, overrides: Sequence[str]) -> bool:
    return any(override.startswith(f"{group}=") for override in overrides)


def stored_study_config(name: str, overrides: Sequence[str]) -> SearchConfig:
    """The config that an existing study was made with, with overrides.

    Raises:
        UnknownStudyError: there is no such study.
        ConfigError: as :func:`kdhpc.config.compose.override_config`.
    """
    from kdhpc.cluster.search import stored_config
    from kdhpc.config.compose import override_config
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy

    return override_config(stored_config(SharedStudy.open(Storage.connect(), name)), overrides)
