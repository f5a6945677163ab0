"""From ``configs/`` and overrides to one frozen config. This module and ``sweep.py`` are all that know Hydra.

Composing imports Hydra, which takes most of a second: commands that only read the database must not call it.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdhpc.config.document import defaults, parse_config, to_document
from kdhpc.config.schema import ObjectiveConfig, SearchConfig, TrainConfig
from kdhpc.errors import ConfigError, nearest

Config = TypeVar("Config")


def config_dirs(config_dir: Path | None = None) -> tuple[Path, ...]:
    """Folders that are searched for a config, the first that has it wins; the shipped one is always last.

    Args:
        config_dir: ``--config-dir``; none: ``$KDHPC_CONFIG_DIR``, else ``./configs`` where there is one.

    Raises:
        ConfigError: a folder was named that does not exist.
    """
    named = config_dir or (Path(os.environ["KDHPC_CONFIG_DIR"]) if "KDHPC_CONFIG_DIR" in os.environ else None)
    if named is not None and not named.is_dir():
        raise ConfigError(
            f"config folder {str(named)!r} does not exist: name one with --config-dir or KDHPC_CONFIG_DIR"
        )
    own = named or Path("configs")
    package = Path(__file__).parents[1]
    shipped = next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())
    found = [path.absolute() for path in (own, shipped) if path.is_dir()]
    return tuple(dict.fromkeys(found))


def config_names(group: str, config_dir: Path | None = None) -> tuple[str, ...]:
    """Names of the configs in a group, of all searched folders."""
    names = {path.stem for folder in config_dirs(config_dir) for path in (folder / group).glob("*.yaml")}
    return tuple(sorted(names))


def compose_config(
    kind: type[Config], root: str, overrides: Sequence[str], *, config_dir: Path | None = None
) -> Config:
    """Compose a root config with overrides (``group=name`` or ``key=value``, Hydra's grammar).

    Args:
        kind: The dataclass that it is of.
        root: ``search`` or ``train``: the name of the root file.
        overrides: Hydra's.
        config_dir: See :func:`config_dirs`.

    Raises:
        ConfigError: an override that cannot be read, a key or config that does not exist (with the nearest that does),
            a value that is not allowed.
    """
    folders = config_dirs(config_dir)
    register_root(kind, root, folders)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            node = compose("root", list(overrides))
        document = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, AttributeError) as exc:
        raise ConfigError(_explain(exc, kind, config_dir)) from exc
    return parse_config(kind, document)


def compose_search(overrides: Sequence[str], *, config_dir: Path | None = None) -> SearchConfig:
    """:func:`compose_config` of ``search.yaml``."""
    config = compose_config(SearchConfig, "search", overrides, config_dir=config_dir)
    return dataclasses.replace(config, objective=_with_found_weights(config.objective))


def compose_train(overrides: Sequence[str], *, config_dir: Path | None = None) -> TrainConfig:
    """:func:`compose_config` of ``train.yaml``."""
    config = compose_config(TrainConfig, "train", overrides, config_dir=config_dir)
    return dataclasses.replace(config, objective=_with_found_weights(config.objective))


def _with_found_weights(objective: ObjectiveConfig) -> ObjectiveConfig:
    """Pretrained weights by their absolute path: workers have other working directories.

    Raises:
        ConfigError: there is no such file.
    """
    if objective.pretrained is None:
        return objective
    path = Path(objective.pretrained).absolute()
    if not path.is_file():
        raise ConfigError(
            f"objective.pretrained={objective.pretrained} does not exist: give a node1.safetensors of "
            "`kdhpc train --graph independent --nodes 1`"
        )
    return dataclasses.replace(objective, pretrained=str(path))


def register_root(kind: type, root: str, folders: Sequence[Path]) -> None:
    """Give Hydra what is not a file: the defaults, and the root config, which it looks for in the first folder only."""
    path = next(folder / f"{root}.yaml" for folder in folders if (folder / f"{root}.yaml").is_file())
    node = OmegaConf.load(path)
    OmegaConf.update(node, "hydra.searchpath", [f"file://{folder}" for folder in folders[1:]])
    ConfigStore.instance().store(name="schema", node=defaults(kind))
    ConfigStore.instance().store(name="root", node=node)


def override_config(config: SearchConfig, overrides: Sequence[str]) -> SearchConfig:
    """A config that exists already, with ``key=value`` overrides.

    Raises:
        ConfigError: a key that does not exist, a value that is not allowed, or an override that chooses a group's file.
    """
    node = OmegaConf.create(to_document(config))
    OmegaConf.set_struct(node, True)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or "." not in key:
            raise ConfigError(f"override {override!r} is not allowed for a study that exists: give group.key=value")
        try:
            node.merge_with_dotlist([override])
        except OmegaConfBaseException as exc:
            raise ConfigError(f"unknown config key {key!r}: {nearest(key, _keys(SearchConfig, key))}") from exc
    return parse_config(SearchConfig, OmegaConf.to_container(node))


_UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'|Key '([^']+)' is not in struct")


def _explain(exc: Exception, kind: type, config_dir: Path | None) -> str:
    """One line for an error of Hydra's, with the nearest valid name where a name was wrong."""
    text = str(exc)
    if isinstance(exc, MissingConfigException) and exc.missing_cfg_file:
        group, _, name = exc.missing_cfg_file.rpartition("/")
        return f"unknown {group or 'config'} {name!r}: {nearest(name, config_names(group, config_dir))}"
    if match := _UNKNOWN_KEY.search(text):
        key = match[1] or match[2]
        return f"unknown config key {key!r}: {nearest(key, _keys(kind, key))}"
    if match := re.search(r"You must specify '([^']+)'", text):
        return f"no {match[1]} chosen: add {match[1]}=NAME, {nearest('', config_names(match[1], config_dir))}"
    return " ".join(text.split()).replace("hydra.cc/docs/1.2/", "hydra.cc/docs/1.3/")


def _keys(kind: type, near: str) -> list[str]:
    """Keys that a wrong one may have meant: those of its group, or those with its last word, or the groups."""
    groups = defaults(kind)
    keys = [f"{group}.{key}" for group, fields in groups.items() for key in fields]
    same_group = [key for key in keys if key.split(".")[0] == near.split(".")[0]]
    same_word = [key for key in keys if key.split(".")[1] == near.split(".")[-1]]
    return same_group or same_word or list(groups)
