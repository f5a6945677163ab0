"""The search space: the graphs that a study may try, which of them are equivalent, and which one each slot tries.

Two raw graphs can train in exactly the same way: the ``correct`` gate on a label edge lets every sample through (the
label is always right), and the design of a cutoff edge is never computed. The canonical form picks one graph of each
such group. Permutations of the nodes are *not* identified: nodes are numbered as in the study (node m starts from the
m-th initial weights, and an exported graph, its drawing and its accuracies name the nodes by these numbers).
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count

from kdhpc.errors import GraphError, nearest
from kdhpc.graph.hash_random import uniform, weighted_order
from kdhpc.graph.node_space import (
    NO_EDGE,
    EdgeKind,
    IncomingEdges,
    NodeSpace,
    canonical_edge_kind,
    canonical_label_gate,
)
from kdhpc.graph.spec import BUILT_IN_DESIGNS, BUILT_IN_GATES, Design, DistillationEdge, Gate, GraphSpec

SMALL_SPACE = 65_536
"""In a space of at most so many canonical graphs, slots draw without replacement."""


def edge_of(source: int, target: int, kind: EdgeKind = NO_EDGE) -> DistillationEdge:
    """The distillation edge of that kind between two nodes (from 0). By default it is cut off."""
    return DistillationEdge(source=source, target=target, design=kind.design, gate=kind.gate)


def canonical(graph: GraphSpec) -> GraphSpec:
    """The one graph that stands for all that train in exactly the same way."""
    return GraphSpec(
        label_gates=tuple(canonical_label_gate(gate) for gate in graph.label_gates),
        edges=tuple(
            edge_of(edge.source, edge.target, canonical_edge_kind(EdgeKind(edge.design, edge.gate)))
            for edge in graph.edges
        ),
        networks=graph.networks,
    )


def graph_key(graph: GraphSpec) -> str:
    """12 hexadecimal digits, equal for graphs with equal canonical forms and the same networks, if they name any."""
    form = canonical(graph)
    labels = [f"label->{node} {gate.value}" for node, gate in enumerate(form.label_gates, start=1)]
    edges = [f"{edge.source + 1}->{edge.target + 1} {edge.design.value} {edge.gate.value}" for edge in form.edges]
    networks = [f"network {node} {name}" for node, name in enumerate(form.networks, start=1)]
    return hashlib.sha256("\n".join(labels + edges + networks).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of the search, as Optuna knows it: one gate, one design or one network of a graph."""

    name: str
    """Such as ``label_1_gate``, ``edge_1_2_gate``, ``edge_1_2_design`` (source, then target, counted from 1), or
    ``network_1``."""
    choices: tuple[str, ...]
    """Its possible values."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All graphs of M nodes with the given gates and designs, and with the given networks.

    The order of the given gates and designs has no effect: kdhpc's own come first, in their own order, then those of
    plug-ins by name. Networks are kept in the order of their names. They are drawn apart from edges: the edges of a
    slot are the same with and without them.

    Raises:
        GraphError: there is no node, a list is empty or repeats a name, or no graph is left once those with unlearned
            nodes are rejected.
    """

    num_nodes: int
    """M, the number of network nodes."""
    label_gates: tuple[Gate, ...] = BUILT_IN_GATES
    """Gates that label edges may have."""
    gates: tuple[Gate, ...] = BUILT_IN_GATES
    """Gates that distillation edges may have."""
    designs: tuple[Design, ...] = BUILT_IN_DESIGNS
    """Loss designs that distillation edges may have."""
    reject_unlearned: bool = False
    """Leave out graphs with a node whose incoming edges are all cut off."""
    node1_learns: bool = False
    """Leave out graphs in which that node is node 1."""
    networks: tuple[str, ...] = ()
    """Networks that each node may be; empty: graphs name none. Graphs that name none are in every space."""
    node1_network: str | None = None
    """What node 1 always is, where ``networks`` are given; None: any of them."""

    def __post_init__(self) -> None:
        if self.num_nodes < 1:
            raise GraphError(f"a search space of {self.num_nodes} nodes is not possible: allowed are 1 or more")
        _check_choices("label_gates", self.label_gates)
        _check_choices("gates", self.gates)
        _check_choices("designs", self.designs)
        object.__setattr__(self, "label_gates", tuple(gate for gate in Gate if gate in self.label_gates))
        object.__setattr__(self, "gates", tuple(gate for gate in Gate if gate in self.gates))
        object.__setattr__(self, "designs", tuple(design for design in Design if design in self.designs))
        if len(set(self.networks)) != len(self.networks):
            raise GraphError(f"networks={', '.join(self.networks)} is not a search space: each has one name")
        object.__setattr__(self, "networks", tuple(sorted(self.networks)))
        if self.node1_network is not None and not self.networks:
            raise GraphError(f"node 1 cannot be {self.node1_network} where no networks are searched: give networks")
        if self.num_canonical == 0:
            raise GraphError(
                f"the search space of {self.num_nodes} nodes is empty: every edge is cutoff, and graphs with nodes "
                f"{'that never learn' if self.reject_unlearned else 'such as node 1 that never learn'} are rejected; "
                "allow another gate, or keep such nodes"
            )

    @property
    def num_raw(self) -> int:
        """Number of combinations of gates and designs that are not rejected: 9,216 for two nodes with everything
        allowed. Networks are not counted."""
        return int(self._space_of(0).num_raw * self.node_space.num_raw ** (self.num_nodes - 1))

    @property
    def num_canonical(self) -> int:
        """Number of graphs that train differently, with the same networks: 3,249 for two nodes with everything
        allowed."""
        return int(self._space_of(0).num_canonical * self.node_space.num_canonical ** (self.num_nodes - 1))

    @property
    def num_mixtures(self) -> int:
        """Number of choices of all nodes' networks; 1 if they are not searched."""
        return math.prod(len(self.networks_of(node)) for node in range(self.num_nodes)) if self.networks else 1

    def graph(self, seed: int, slot: int) -> GraphSpec:
        """The canonical graph that a slot of a study tries: a pure function of the space, the seed and the slot.

        Every gate, design and network is uniform, as in the paper's random search. We differ from the paper in a small
        space (at most ``SMALL_SPACE`` canonical graphs): no graph repeats until all have been drawn. Then a new round
        begins, in another order. Networks are not counted there.

        Args:
            seed: The study's seed.
            slot: The slot's number, 0 or more.

        Raises:
            GraphError: the slot is negative.

        Source: paper section 4.2, "Hyperparameter search".
        """
        if slot < 0:
            raise GraphError(f"slot {slot} does not exist: allowed are 0 and above")
        return replace(self._edges(seed, slot), networks=self._draw_networks(seed, slot))

    def _edges(self, seed: int, slot: int) -> GraphSpec:
        """The graph of a slot without its networks."""
        if self.num_canonical > SMALL_SPACE:
            return canonical(_graph_of(self._draw(target, seed, slot) for target in range(self.num_nodes)))
        draw_round, place = divmod(slot, self.num_canonical)
        return self._nth(_order(replace(self, networks=(), node1_network=None), seed, draw_round)[place])

    def _draw_networks(self, seed: int, slot: int) -> tuple[str, ...]:
        """The networks of a slot's nodes; empty if they are not searched."""
        if not self.networks:
            return ()
        keys = (f"seed {seed} slot {slot} network of node {node}" for node in range(self.num_nodes))
        drawn = tuple(self.networks[uniform(len(self.networks), key)] for key in keys)
        return drawn if self.node1_network is None else (self.node1_network, *drawn[1:])

    def networks_of(self, node: int) -> tuple[str, ...]:
        """What a node (from 0) may be; empty if networks are not searched."""
        return (self.node1_network,) if node == 0 and self.node1_network is not None else self.networks

    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters: label edges by node, then distillation edges by (source, target), gate and design of each;
        then networks by node."""
        return _parameters(self)

    def to_parameters(self, graph: GraphSpec) -> dict[str, str]:
        """The parameters of a graph, by name. A cutoff edge has both of its parameters, as any other edge. A graph that
        names no networks has no parameters of them.

        The canonical form of a graph may use a value that this space does not have: ``through`` for ``correct`` on a
        label edge, or the design of a cutoff edge. A value that trains in the same way is given instead.

        Raises:
            GraphError: the graph is not in this space.
        """
        if graph.num_nodes != self.num_nodes:
            raise GraphError(f"a graph of {graph.num_nodes} nodes is not in a search space of {self.num_nodes} nodes")
        written = {_label_name(node): self._label_choice(gate).value for node, gate in enumerate(graph.label_gates)}
        for edge in graph.edges:
            unused = edge.gate is Gate.CUTOFF and edge.design not in self.designs
            design = self.designs[0] if unused else edge.design
            written[_edge_name(edge.source, edge.target, "gate")] = edge.gate.value
            written[_edge_name(edge.source, edge.target, "design")] = design.value
        written |= {_network_name(node): name for node, name in enumerate(graph.networks)}
        self._check(written)
        return written

    def from_parameters(self, parameters: Mapping[str, str]) -> GraphSpec:
        """The raw graph of some parameters, by name. A search trains the ``canonical`` form of it.

        Raises:
            GraphError: a parameter is missing, unknown, or has a value that this space does not allow.
        """
        self._check(parameters)
        nodes = range(self.num_nodes)
        return GraphSpec(
            label_gates=tuple(Gate(parameters[_label_name(node)]) for node in nodes),
            edges=tuple(
                DistillationEdge(
                    source=source,
                    target=target,
                    design=Design(parameters[_edge_name(source, target, "design")]),
                    gate=Gate(parameters[_edge_name(source, target, "gate")]),
                )
                for source in nodes
                for target in nodes
                if source != target
            ),
            networks=tuple(parameters[name] for name in map(_network_name, nodes) if name in parameters),
        )

    def admits(self, graph: GraphSpec) -> bool:
        """Whether a graph is not rejected for its unlearned nodes."""
        unlearned = graph.unlearned_nodes
        return not (self.reject_unlearned and unlearned) and not (self.node1_learns and 0 in unlearned)

    def _label_choice(self, gate: Gate) -> Gate:
        """The gate itself if label edges may have it, else one that is the same on a label edge."""
        equal = (other for other in self.label_gates if canonical_label_gate(other) is canonical_label_gate(gate))
        return gate if gate in self.label_gates else next(equal, gate)

    def _check(self, parameters: Mapping[str, str]) -> None:
        choices = {parameter.name: parameter.choices for parameter in self.parameters()}
        for name, value in parameters.items():
            if name not in choices:
                raise GraphError(f"graph parameter '{name}' is not in the search space: {nearest(name, choices)}")
            if value not in choices[name]:
                raise GraphError(f"graph parameter {name}={value} is not allowed: {nearest(value, choices[name])}")
        networks = {_network_name(node) for node in range(self.num_nodes)}
        optional = networks if networks.isdisjoint(parameters) else frozenset()
        missing = [name for name in choices if name not in parameters and name not in optional]
        if missing:
            raise GraphError(f"graph parameters are missing: {', '.join(missing)}")

    @property
    def node_space(self) -> NodeSpace:
        """The choices for one node. The search space is its M-th power, but for node 1 where that must learn."""
        return NodeSpace(
            num_sources=self.num_nodes - 1,
            label_gates=self.label_gates,
            gates=self.gates,
            designs=self.designs,
            reject_unlearned=self.reject_unlearned,
        )

    def _space_of(self, target: int) -> NodeSpace:
        """The choices for a node (from 0)."""
        space = self.node_space
        return replace(space, reject_unlearned=True) if target == 0 and self.node1_learns else space

    def _draw(self, target: int, seed: int, slot: int) -> IncomingEdges:
        """Draw the edges into one node, uniformly from the raw choices; a rejected choice is drawn again."""
        space = self._space_of(target)
        draws = (uniform(space.num_unfiltered, f"seed {seed} slot {slot} node {target} attempt {n}") for n in count())
        return next(incoming for incoming in map(space.raw, draws) if space.admits(incoming))

    def _nth(self, index: int) -> GraphSpec:
        """The canonical graph of that number, 0 to ``num_canonical`` - 1."""
        chosen = []
        for target in range(self.num_nodes):
            forms = _forms(self._space_of(target))
            index, digit = divmod(index, len(forms))
            chosen.append(forms[digit][0])
        return _graph_of(chosen)


@lru_cache(maxsize=8)
def _parameters(space: SearchSpace) -> tuple[Parameter, ...]:
    nodes = range(space.num_nodes)
    labels = [Parameter(name=_label_name(node), choices=_values(space.label_gates)) for node in nodes]
    kinds = (("gate", _values(space.gates)), ("design", _values(space.designs)))
    edges = [
        Parameter(name=_edge_name(source, target, kind), choices=choices)
        for source in nodes
        for target in nodes
        for kind, choices in kinds
        if source != target
    ]
    networks = [
        Parameter(name=_network_name(node), choices=space.networks_of(node)) for node in nodes if space.networks
    ]
    return (*labels, *edges, *networks)


@lru_cache(maxsize=8)
def _forms(space: NodeSpace) -> tuple[tuple[IncomingEdges, int], ...]:
    return tuple(space.canonical_forms())


@lru_cache(maxsize=8)
def _order(space: SearchSpace, seed: int, draw_round: int) -> tuple[int, ...]:
    """The numbers of all canonical graphs of a small space, in the random order of one round."""
    weights = [1]
    for target in range(space.num_nodes):
        weights = [new * old for new in (weight for _, weight in _forms(space._space_of(target))) for old in weights]
    return weighted_order(weights, f"seed {seed} round {draw_round}")


def _graph_of(nodes: Iterable[IncomingEdges]) -> GraphSpec:
    taught = tuple(nodes)
    edges = []
    for target, incoming in enumerate(taught):
        sources = (source for source in range(len(taught)) if source != target)
        edges += [edge_of(source, target, kind) for source, kind in zip(sources, incoming.edge_kinds, strict=True)]
    return GraphSpec(label_gates=tuple(incoming.label_gate for incoming in taught), edges=tuple(edges))


def _label_name(node: int) -> str:
    return f"label_{node + 1}_gate"


def _edge_name(source: int, target: int, kind: str) -> str:
    return f"edge_{source + 1}_{target + 1}_{kind}"


def _network_name(node: int) -> str:
    return f"network_{node + 1}"


def _values(choices: tuple[Gate, ...] | tuple[Design, ...]) -> tuple[str, ...]:
    return tuple(choice.value for choice in choices)


def _check_choices(name: str, choices: tuple[Gate, ...] | tuple[Design, ...]) -> None:
    if not len(choices) == len(set(choices)) > 0:
        shown = ", ".join(_values(choices)) or "(none)"
        raise GraphError(f"{name}={shown} is not a search space: allowed are one or more different names")
