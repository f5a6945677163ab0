"""``network=[resnet50,resnet18]``: a network for each node, where all other groups of a config take one name.

Hydra would lay the configs of such a list over one another, and use the last. So a list is given another name, which
stands for a config of its own: the networks of all nodes with the options that they have in common.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException

from kdhpc.config.document import to_document
from kdhpc.config.networks import is_place
from kdhpc.config.schema import NetworkConfig, networks_label
from kdhpc.errors import ConfigError, KdhpcError
from kdhpc.graph.serial import read_stored
from kdhpc.graph.zoo import graph_path

GROUP = "network"
"""The only group that takes a list."""

Lists = Mapping[str, tuple[str, ...]]
"""The networks of all nodes, by the name that stands for the list."""


def name_lists(overrides: Sequence[str]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Overrides in which each list of networks has a name, and those lists; what cannot be read is left as it is.

    Raises:
        ConfigError: a list is empty, or has something else in it than names.
    """
    lists: dict[str, tuple[str, ...]] = {}
    named = []
    parser = OverridesParser.create()
    for text in overrides:
        key, equals, value = text.partition("=")
        if key.lstrip("+") != GROUP or "[" not in value:
            named.append(text)
            continue
        try:
            parsed = parser.parse_override(text)
        except HydraException:  # Whoever reads all overrides says what is wrong.
            named.append(text)
            continue
        found = parsed.value()
        choices = found.list if isinstance(found, ChoiceSweep) else [found]
        words = [_word(choice, text, lists) for choice in choices]
        named.append(f"{key}{equals}{','.join(words)}")
    return named, lists


def stands_for(names: tuple[str, ...]) -> str:
    """The name of a list."""
    return f"list-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}"


def combined(names: Sequence[str], network_of: Callable[[str], NetworkConfig]) -> dict[str, object]:
    """The group ``network`` of a config in which each node has a network of its own.

    Crops are the same for all pairs of nodes: of the networks' own crops those whose largest is smallest. Every other
    option is that of the networks that have one.

    Args:
        names: One for each node.
        network_of: The config that a name alone chooses.

    Raises:
        ConfigError: a name stands for several networks, or options of two networks differ.
    """
    each = {name: network_of(name) for name in dict.fromkeys(names)}
    for name, network in each.items():
        if network.nodes:
            raise ConfigError(f"network=[{','.join(names)}] is not allowed: {name} is a list itself")
    nodes = tuple(each[name].name for name in names)
    group: dict[str, object] = {"name": networks_label(nodes), "nodes": list(nodes)}
    documents = [to_document(network) for network in each.values()]
    defaults = {field.name: field.default for field in dataclasses.fields(NetworkConfig)}
    for key in documents[0].keys() - {"name", "nodes", "crops"}:
        given = [document[key] for document in documents if document[key] != defaults[key]]
        if any(value != given[0] for value in given):
            raise ConfigError(
                f"network=[{','.join(names)}] have different options network.{key} ({', '.join(map(str, given))}): "
                f"networks of one training share it, give network.{key}=VALUE"
            )
        group[key] = given[0] if given else defaults[key]
    crops = [network.crops for network in each.values() if network.crops]
    if len(crops) == len(each):  # Without a network that leaves them open.
        group["crops"] = list(min(crops, key=max))
    return group


def with_networks_of_graph(overrides: Sequence[str]) -> list[str]:
    """Overrides of a final training, with the networks that its graph's file names where none are chosen.

    A file that cannot be read is left to whoever reads it for its graph.

    Raises:
        ConfigError: the file names ``module:Name``. Its author could have any code on this machine run.
    """
    if any(text.lstrip("+").startswith(f"{GROUP}=") for text in overrides):
        return list(overrides)
    graphs = [text for text in overrides if text.startswith("run.graph=")]
    networks = _networks_of(graphs[-1]) if graphs else ()
    if places := [name for name in networks if is_place(name)]:
        raise ConfigError(
            f"{graphs[-1].partition('=')[2]} has the network {places[0]}, code that is imported only if you name it: "
            f"give network=[{','.join(networks)}]"
        )
    return [*overrides, *([f"{GROUP}=[{','.join(map(quoted, networks))}]"] if networks else [])]


def quoted(text: str) -> str:
    """A text as Hydra's grammar quotes it."""
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def _networks_of(override: str) -> tuple[str, ...]:
    try:
        found = OverridesParser.create().parse_override(override).value()
        path = graph_path(found.text if isinstance(found, QuotedString) else str(found))
        return read_stored(path).graph.networks if path.is_file() else ()
    except (HydraException, KdhpcError, OSError, ValueError):
        return ()


def _word(choice: object, text: str, lists: dict[str, tuple[str, ...]]) -> str:
    """One choice as an override writes it; a list by its name."""
    if isinstance(choice, QuotedString):
        return choice.with_quotes()
    if not isinstance(choice, list):
        return str(choice)
    names = tuple(name.text if isinstance(name, QuotedString) else name for name in choice)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"{text} is not allowed: a list has the name of a network for each node, as [resnet50,resnet18]"
        )
    lists[stands_for(names)] = names
    return stands_for(names)
