"""From ``configs/`` and overrides to one frozen config. Only this module, ``overrides`` and ``sweep`` know Hydra.

Composing imports Hydra, which takes most of a second: commands that only read the database must not call it.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from kdhpc.config.document import defaults, parse_config, parse_group, root_defaults, unreadable
from kdhpc.config.folders import config_dirs, config_names
from kdhpc.config.library_names import nearest_networks
from kdhpc.config.meaning import refuse_meaningless
from kdhpc.config.network_lists import GROUP, Lists, combined, name_lists, with_networks_of_graph
from kdhpc.config.networks import NETWORKS, is_foreign, is_place, network_group
from kdhpc.config.overrides import check_single, takes, unknown_key
from kdhpc.config.own_datasets import packed_group, packed_names
from kdhpc.config.renamed import renamed_overrides, with_old_keys
from kdhpc.config.schema import NetworkConfig, ObjectiveConfig, SearchConfig, TrainConfig
from kdhpc.errors import ConfigError, nearest

Config = TypeVar("Config")
_Answer = TypeVar("_Answer")
Groups = Mapping[str, object]
"""Some groups of a config, as plain documents, and keys that are in no group: of a study that exists, or of what a
Python user gave as objects."""

_MAPPINGS = ("objective.pretrained.", "objective.pretrained={")


def compose_config(
    kind: type[Config],
    root: str,
    overrides: Sequence[str],
    *,
    config_dir: Path | None = None,
    given: Groups | None = None,
) -> Config:
    """Compose a root config with overrides (``group=name`` or ``key=value``, Hydra's grammar).

    Args:
        kind: The dataclass that it is of.
        root: ``search`` or ``train``: the name of the root file.
        overrides: Hydra's.
        config_dir: See :func:`kdhpc.config.folders.config_dirs`.
        given: Groups of a study that exists: their files are left aside.

    Raises:
        ConfigError: an override that cannot be read, a key or config that does not exist (with the nearest that does),
            a value that is not allowed, a file that cannot be read.
    """
    words = renamed_overrides(overrides)
    overrides, lists = name_lists(words)
    check_single(kind, overrides, config_dir)
    _refuse_choices(words, given or {})
    folders = config_dirs(config_dir)
    stored = list_groups(kind, root, overrides, lists, config_dir=config_dir, given=given)
    overrides = [_adding(override) for override in overrides]
    try:
        register_root(kind, root, folders, given or {})
        store_lists(stored)
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            node = _knowing_names(lambda: compose("root", list(overrides), return_hydra_config=True))
            listed = _listed_networks(kind, node, overrides, given or {}, config_dir)
        if listed:
            more = [*words, f"{GROUP}=[{','.join(listed)}]"]
            return compose_config(kind, root, more, config_dir=config_dir, given=given)
        node = OmegaConf.masked_copy(node, [str(key) for key in node if key != "hydra"])
        document = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, AttributeError, TypeError) as exc:
        raise ConfigError(_explain(exc, kind, config_dir)) from exc
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as exc:
        raise ConfigError(_unreadable(exc, folders)) from exc
    except ValueError as exc:  # Hydra's, of an entry that has the wrong type.
        raise ConfigError(_explain(exc, kind, config_dir)) from exc
    config = parse_config(kind, document)
    refuse_meaningless(config, overrides)
    return config


def compose_search(
    overrides: Sequence[str], *, config_dir: Path | None = None, given: Groups | None = None
) -> SearchConfig:
    """:func:`compose_config` of ``search.yaml``."""
    config = compose_config(SearchConfig, "search", overrides, config_dir=config_dir, given=given)
    return dataclasses.replace(
        config,
        network=_with_found_start(config.network),
        objective=_with_found_weights(config.objective, *(one.name for one in config.possible_networks)),
    )


def compose_train(
    overrides: Sequence[str], *, config_dir: Path | None = None, given: Groups | None = None
) -> TrainConfig:
    """:func:`compose_config` of ``train.yaml``; networks that a graph's file names need not be chosen."""
    chosen = overrides if GROUP in (given or {}) else with_networks_of_graph(overrides)
    config = compose_config(TrainConfig, "train", chosen, config_dir=config_dir, given=given)
    run = config.run
    if run.teacher is not None:
        run = dataclasses.replace(run, teacher=str(Path(run.teacher).absolute()))
    return dataclasses.replace(
        config,
        network=_with_found_start(config.network),
        objective=_with_found_weights(config.objective, *config.network.distinct),
        run=run,
    )


def _adding(override: str) -> str:
    """An override that may name a new key of a mapping, which Hydra wants to be told."""
    return f"++{override}" if override.startswith(_MAPPINGS) else override


def _knowing_names(ask: Callable[[], _Answer]) -> _Answer:
    """What Hydra says of the root config. What has no file it is given once it misses it.

    That is networks of libraries, users' own networks and trackers, and data sets that are packed.
    """
    missed: set[str] = set()
    while True:
        try:
            return ask()
        except MissingConfigException as exc:
            missing = exc.missing_cfg_file or ""
            if missing in missed or not _store_named(*missing.partition("/")[::2]):
                raise
            missed.add(missing)


def _store_named(group: str, name: str) -> bool:
    """Make a name that has no file a choice of its group; False: nothing has that name."""
    if group == GROUP and is_foreign(name):
        store_network(name)
        return True
    if group == "tracking" and is_place(name):
        ConfigStore.instance().store(group=group, name=name, node={"tracker": name})
        return True
    packed = packed_group(name) if group == "dataset" else None
    if packed is not None:
        store_dataset(name, packed)
    return packed is not None


def store_dataset(name: str, group: Mapping[str, object]) -> None:
    """Make a packed data set a choice of the group ``dataset``, after :func:`register_root`."""
    ConfigStore.instance().store(group="dataset", name=name, node=dict(group))


def store_network(name: str) -> None:
    """Make a network's name a choice of the group ``network``."""
    group, _, last = f"network/{name}".rpartition("/")
    ConfigStore.instance().store(group=group, name=last, node=network_group(name))


def list_groups(
    kind: type[Config],
    root: str,
    overrides: Sequence[str],
    lists: Lists,
    *,
    config_dir: Path | None = None,
    given: Groups | None = None,
) -> dict[str, dict[str, object]]:
    """The group that each list of networks stands for.

    Args:
        kind: The dataclass of the config.
        root: Name of its root file.
        overrides: Of the config, each with one value.
        lists: From :func:`kdhpc.config.network_lists.name_lists`.
        config_dir: See :func:`kdhpc.config.folders.config_dirs`.
        given: As for :func:`compose_config`.

    Raises:
        ConfigError: a name is unknown, or options of networks do not go together.
    """
    others = [text for text in overrides if not re.match(rf"\+*{GROUP}[.=]", text)]
    folders = config_dirs(config_dir)

    def network_of(name: str) -> NetworkConfig:
        is_known = name in NETWORKS or is_foreign(name)
        if is_known and not any((folder / GROUP / f"{name}.yaml").is_file() for folder in folders):
            return parse_group(GROUP, NetworkConfig, network_group(name))
        alone: object = compose_config(kind, root, [*others, f"{GROUP}={name}"], config_dir=config_dir, given=given)
        assert isinstance(alone, SearchConfig | TrainConfig), "both have networks"
        return alone.network

    return {word: combined(names, network_of) for word, names in lists.items()}


def store_lists(groups: Mapping[str, Mapping[str, object]]) -> None:
    """Make lists of networks choices of the group ``network``, after :func:`register_root`."""
    for word, group in groups.items():
        ConfigStore.instance().store(group=GROUP, name=word, node=dict(group))


def _listed_networks(
    kind: type, node: DictConfig, overrides: Sequence[str], given: Groups, config_dir: Path | None
) -> tuple[str, ...]:
    """The networks that a list of defaults chooses; none unless they are several.

    Raises:
        ConfigError: see :func:`_chosen`.
    """
    # Hydra says of each group what was chosen, unless it was a list. Asking for that takes as long as composing.
    if not defaults(kind).keys() - given.keys() - node.hydra.runtime.choices.keys():
        return ()
    names = _chosen(kind, overrides, config_dir)[GROUP]
    return tuple(names) if len(names) > 1 else ()


def _refuse_choices(overrides: Sequence[str], given: Groups) -> None:
    for override in overrides:
        group = override.lstrip("+").partition("=")[0]
        if isinstance(given.get(group), Mapping):
            raise ConfigError(
                f"override {override!r} is not allowed here, what it chooses is given: give {group}.key=value"
            )


def _chosen(kind: type, overrides: Sequence[str], config_dir: Path | None) -> dict[str, list[str]]:
    """The configs that are chosen of each group: a list of defaults may choose several networks.

    Hydra lays several configs of a group over one another, so that the last one would be used alone. A config that
    takes another of its group as its base is no such case.

    Raises:
        ConfigError: a list of defaults chooses several configs where the group takes one.
    """
    loader = GlobalHydra.instance().config_loader()
    chosen: dict[str, list[str]] = {group: [] for group in defaults(kind)}
    for entry in loader.compute_defaults_list("root", list(overrides), RunMode.RUN).defaults:
        group, _, name = (entry.config_path or "").partition("/")
        if group in chosen and not (entry.parent or "").startswith(f"{group}/"):
            chosen[group].append(name)
    for group, names in chosen.items():
        if len(names) > 1 and group != GROUP:
            raise ConfigError(
                f"{group}: [{', '.join(names)}] in a list of defaults is not allowed: choose one, "
                f"{takes(kind, group, config_dir)}"
            )
    return chosen


def _with_found_weights(objective: ObjectiveConfig, *networks: str) -> ObjectiveConfig:
    """Pretrained weights by their absolute path: workers have other working directories.

    Of several files, those of other networks are left out.

    Raises:
        ConfigError: there is no such file, or none for one of the networks.
    """
    given = objective.pretrained
    if given is None:
        return objective
    if isinstance(given, str):
        path = Path(given).absolute()
        if not path.is_file():
            raise ConfigError(
                f"objective.pretrained={given} does not exist: give a node1.safetensors of "
                "`kdhpc train --graph independent --nodes 1`"
            )
        return dataclasses.replace(objective, pretrained=str(path))
    for network in networks:
        if network not in given:
            raise ConfigError(
                f"objective.pretrained has no file for network {network} ({nearest(network, given)}): add "
                f"objective.pretrained.{network}=FILE, a node1.safetensors of `kdhpc train --graph independent "
                f"--nodes 1 network={network}`"
            )
    used = {network: str(Path(given[network]).absolute()) for network in sorted(set(networks))}
    return dataclasses.replace(objective, pretrained=used)


def _with_found_start(network: NetworkConfig) -> NetworkConfig:
    """Weights to start from by their absolute path, as of :func:`_with_found_weights`.

    Raises:
        ConfigError: there is no such file.
    """
    if network.weights is None:
        return network
    path = Path(network.weights).absolute()
    if not path.is_file():
        raise ConfigError(
            f"network.weights={network.weights} does not exist: give a file of weights of {network.name}, .safetensors "
            "or what torch.save wrote of a state_dict"
        )
    return dataclasses.replace(network, weights=str(path))


def register_root(kind: type, root: str, folders: Sequence[Path], given: Groups) -> None:
    """Give Hydra what is not a file: the defaults, a config for each network, and the root config.

    Hydra looks for the root config in the first folder only.

    Args:
        kind: The dataclass that the config is of.
        root: Name of the root file.
        folders: As searched.
        given: Groups whose files are left aside.
    """
    path = next(folder / f"{root}.yaml" for folder in folders if (folder / f"{root}.yaml").is_file())
    node = OmegaConf.load(path)
    if not isinstance(node, DictConfig) or "defaults" not in node:
        raise ConfigError(f"config file {path} has no list of defaults: take the shipped {root}.yaml as it is")
    node.defaults = [entry for entry in node.defaults if not (isinstance(entry, DictConfig) and entry.keys() & given)]
    OmegaConf.update(node, "hydra.searchpath", [f"file://{folder}" for folder in folders[1:]])
    ConfigStore.instance().store(name="schema", node={**with_old_keys(defaults(kind)), **root_defaults(kind)})
    ConfigStore.instance().store(name="root", node=OmegaConf.merge(node, given))
    # A file of that name goes before; Hydra would take what is stored for its schema.
    files = {path.name for folder in folders for path in (folder / "network").glob("*.yaml")}
    for group in ("network", "dataset"):
        ConfigStore.instance().repo.pop(group, None)
    for name in NETWORKS:
        if f"{name}.yaml" not in files:
            store_network(name)


def _unreadable(exc: yaml.YAMLError | UnicodeDecodeError | OSError, folders: Sequence[Path]) -> str:
    """One line for a file that is no YAML, is no text, or cannot be opened."""
    if isinstance(exc, UnicodeDecodeError):  # It does not say of which file.
        for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
            try:
                path.read_bytes().decode()
            except UnicodeDecodeError as found:
                return unreadable(found, path)
    mark = exc.problem_mark if isinstance(exc, yaml.MarkedYAMLError) else None
    name = mark.name if mark is not None else getattr(exc, "filename", None)
    return unreadable(exc, Path(name or folders[0]))


_OMEGACONF_NOTE = re.compile(r" full_key: (\S*) object_type=\S+")
_UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'|Key '([^']+)' is not in struct")


def _explain(exc: Exception, kind: type, config_dir: Path | None) -> str:
    """One line for an error of Hydra's, with the nearest valid name where a name was wrong."""
    text = str(exc)
    if isinstance(exc, MissingConfigException) and exc.missing_cfg_file:
        group, _, name = exc.missing_cfg_file.rpartition("/")
        if group.startswith("network/"):
            group, _, name = exc.missing_cfg_file.partition("/")
        names = config_names(group, config_dir)
        if name in names:
            return f"config {group}/{name}.yaml cannot be read: it is a link to nothing, or no regular file"
        if group == "dataset":
            hint = nearest(name, {*names, *packed_names()})
            return f"unknown dataset {name!r}: {hint}; to prepare it: kdhpc data prepare READER SOURCE --name {name}"
        known = nearest_networks(name, names) if group == GROUP else nearest(name, names)
        return f"unknown {group or 'config'} {name!r}: {known}"
    if isinstance(exc, MissingMandatoryValue):
        return f"config key {exc.full_key!r} is missing: every config must have it"
    if match := _UNKNOWN_KEY.search(text):
        return unknown_key(kind, match[1] or match[2])
    if match := re.search(r"You must specify '([^']+)'", text):
        choices = {*config_names(match[1], config_dir), *(packed_names() if match[1] == "dataset" else ())}
        return f"no {match[1]} chosen: add {match[1]}=NAME, {nearest('', choices)}"
    words = " ".join((text or str(exc.__cause__ or type(exc).__name__)).split())
    return "the config cannot be composed: " + _OMEGACONF_NOTE.sub(r" (\1)", words)
