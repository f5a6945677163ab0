"""Networks for Python users: by name, or modules of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from kdhpc.api.keywords import written
from kdhpc.config.schema import networks_label
from kdhpc.errors import GraphError, NetworkError
from kdhpc.networks.own import Maker, OwnNetworks, copies_of, import_network, own_networks, register, register_imported

Network: TypeAlias = str | Callable[[], nn.Module] | Sequence[str] | Sequence[nn.Module]
"""A name, a callable that makes a new module, or a list of M names or of M modules."""
_CROPS = (3, 5, 7)
_GIVE = "give a name, a callable that makes a new module, or a list of M names or of M modules"


@dataclass(frozen=True, kw_only=True)
class ChosenNetwork:
    """The networks that a user has chosen: kdhpc's by name, the same for all nodes or one for each, or the user's own
    modules."""

    name: str
    """As configs have it; of a list of names their names with ``+`` between them."""
    names: tuple[str, ...] = ()
    """A list of names; empty: no list was given, or one of modules."""
    own: OwnNetworks | None = None
    """The user's own; None: one of kdhpc's."""

    @property
    def each(self) -> tuple[str, ...]:
        """The names of its networks."""
        return self.names or (self.name,)

    @property
    def override(self) -> str:
        """What chooses it in a config, unless it is the user's own."""
        return f"network={written('network', self.names) if self.names else self.name}"

    def group(self, image_size: int) -> dict[str, object] | None:
        """The config's group ``network``, unless the user says otherwise; None: a file of configs has it."""
        if self.own is None:
            return None
        side = self.own.map_side(image_size)
        return {"name": self.name, "crops": [crop for crop in _CROPS if crop <= side] or [side]}

    def makes_maps(self, image_size: int) -> bool:
        """Whether the networks make attention maps, so that a graph can compare them."""
        if self.own is not None:
            return self.own.make_maps(image_size)
        named = map(own_networks, self.each)
        return all(networks is None or networks.make_maps(image_size) for networks in named)

    def check_nodes(self, num_nodes: int) -> None:
        """Refuse a list of another length than the graph has nodes.

        Raises:
            GraphError: with both numbers.
        """
        if self.own is not None and self.own.num_makers not in (1, num_nodes):
            raise GraphError(
                f"the graph has {num_nodes} nodes, network is a list of {self.own.num_makers}: give one module a node"
            )


def choose_network(network: object) -> ChosenNetwork:
    """What a user means by ``network=``; modules of their own get a name that says their layers and code.

    Raises:
        NetworkError: it cannot be meant, or does not make a module.
    """
    if isinstance(network, str) and ":" not in network:
        return ChosenNetwork(name=network)
    if names := listed_names(network):
        return ChosenNetwork(name=networks_label(names), names=names)
    makers, label = _makers(network)
    own = OwnNetworks(makers, label=label)
    name = f"{label.rpartition(':')[2].rpartition('.')[2]}-{own.fingerprint()}"
    register(name, own)
    return ChosenNetwork(name=name, own=own)


def choose_importable(network: object) -> ChosenNetwork:
    """As :func:`choose_network`, of networks that other processes make, too: modules have names that say where.

    Raises:
        NetworkError: no other process can make it.
    """
    if isinstance(network, str) and ":" not in network:
        return ChosenNetwork(name=network)
    if names := listed_names(network):
        return ChosenNetwork(name=networks_label(names), names=names)
    makers, label = _makers(network)
    name = label if isinstance(network, str) else _place_of(makers, label)
    own = OwnNetworks([import_network(name)], label=name)
    register(name, own)
    return ChosenNetwork(name=name, own=own)


def listed_names(network: object) -> tuple[str, ...]:
    """A list of names; empty: it is something else. Those of the form ``module:Name`` are imported."""
    if not isinstance(network, (list, tuple)) or not all(isinstance(name, str) for name in network):
        return ()
    for name in network:
        register_imported(name)
    return tuple(network)


def _place_of(makers: Sequence[Maker], label: str) -> str:
    """``module:Name`` of a callable."""
    maker = makers[0]
    module, name = getattr(maker, "__module__", None), getattr(maker, "__qualname__", "<>")
    if len(makers) > 1 or module in (None, "__main__") or "<" in name or import_network(f"{module}:{name}") != maker:
        raise NetworkError(
            f"network {label} cannot be made by worker processes, which import it: put it into a file, as a class or a "
            "function at its top, and give network='my_module:Name'"
        )
    return f"{module}:{name}"


def name_again(name: str, network: object) -> None:
    """Let the name that a finished run has mean these modules.

    Raises:
        NetworkError: as :func:`choose_network`.
    """
    makers, label = _makers(network)
    register(name, OwnNetworks(makers, label=label))


def _makers(network: object) -> tuple[list[Maker], str]:
    if isinstance(network, str):
        return [import_network(network)], network
    if isinstance(network, nn.Module):
        kind = type(network).__name__
        raise NetworkError(f"network is a single {kind}, which only one node could be: {_GIVE}")
    if isinstance(network, (list, tuple)):
        if not network or not all(isinstance(module, nn.Module) for module in network):
            kinds = ", ".join(sorted({type(module).__name__ for module in network})) or "nothing"
            raise NetworkError(f"network is a list of {kinds}: {_GIVE}")
        kinds = "-".join(dict.fromkeys(type(module).__name__ for module in network))
        return copies_of(network), kinds[:40]
    if callable(network):
        return [network], _label(network)
    raise NetworkError(f"network is a {type(network).__name__}: {_GIVE}")


def _label(maker: object) -> str:
    name = str(getattr(maker, "__name__", type(maker).__name__))
    return "network" if name == "<lambda>" else name
