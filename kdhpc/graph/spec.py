"""The graph: which network teaches which, how, and when.

An edge is ``source -> target`` everywhere: the source teaches, only the target's weights feel it. Nodes count from 0 in
memory (they index tensors) and from 1 wherever people read them (JSON, drawings, parameter names, messages), as in the
paper.
"""

from dataclasses import dataclass
from typing import ClassVar

from kdhpc.errors import GraphError
from kdhpc.graph.names import OpenName

MOST_NODES = 256
"""Of a graph: its edges grow with the square."""


class Gate(OpenName):
    """How an edge's loss is weighted. Source of kdhpc's own: paper Eq. 8-11. A plug-in adds others."""

    THROUGH: ClassVar["Gate"]
    CUTOFF: ClassVar["Gate"]
    LINEAR: ClassVar["Gate"]
    CORRECT: ClassVar["Gate"]


Gate.THROUGH = Gate.add("through", is_built_in=True)
Gate.CUTOFF = Gate.add("cutoff", is_built_in=True)
Gate.LINEAR = Gate.add("linear", is_built_in=True)
Gate.CORRECT = Gate.add("correct", is_built_in=True)


class Design(OpenName):
    """What a distillation edge compares, and whether it brings the two closer or apart.

    Source of kdhpc's own: paper Eq. 4-7. A plug-in adds others.
    """

    compares_maps: bool
    """Whether it compares attention maps, which not every network has."""

    PROB_CLOSER: ClassVar["Design"]
    PROB_APART: ClassVar["Design"]
    ATTENTION_CLOSER: ClassVar["Design"]
    ATTENTION_APART: ClassVar["Design"]
    BOTH_CLOSER: ClassVar["Design"]
    BOTH_APART: ClassVar["Design"]


Design.PROB_CLOSER = Design.add("prob+", is_built_in=True)
Design.PROB_APART = Design.add("prob-", is_built_in=True)
Design.ATTENTION_CLOSER = Design.add("att+", is_built_in=True)
Design.ATTENTION_APART = Design.add("att-", is_built_in=True)
Design.BOTH_CLOSER = Design.add("prob+att+", is_built_in=True)
Design.BOTH_APART = Design.add("prob-att-", is_built_in=True)

for _design in Design:
    _design.compares_maps = _design not in (Design.PROB_CLOSER, Design.PROB_APART)

BUILT_IN_GATES: tuple[Gate, ...] = tuple(Gate)
"""kdhpc's own gates, which a search space has unless it says otherwise."""
BUILT_IN_DESIGNS: tuple[Design, ...] = tuple(Design)
"""kdhpc's own designs, as well."""


@dataclass(frozen=True, kw_only=True)
class DistillationEdge:
    """One network teaching another."""

    source: int
    """The teaching node, 0 to M-1."""
    target: int
    """The taught node, 0 to M-1, not the source."""
    design: Design
    """The loss."""
    gate: Gate
    """Its weight; with ``cutoff`` the design has no effect."""


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """M network nodes, one label edge to each, and one distillation edge between each ordered pair.

    Raises:
        GraphError: no nodes, more than ``MOST_NODES``, the edges are not exactly one for each ordered pair of
            different nodes, or the networks are not one for each node.
    """

    label_gates: tuple[Gate, ...]
    """Gate of the label edge of each node."""
    edges: tuple[DistillationEdge, ...] = ()
    """All M(M-1) distillation edges, ordered by (source, target)."""
    networks: tuple[str, ...] = ()
    """Name of each node's network; empty: whoever trains the graph says it."""

    def __post_init__(self) -> None:
        if not self.label_gates:
            raise GraphError("a graph needs at least one node, this one has none")
        if self.num_nodes > MOST_NODES:
            raise GraphError(f"a graph of {self.num_nodes} nodes is not allowed: at most {MOST_NODES}")
        if len(self.networks) not in (0, self.num_nodes) or not all(self.networks):
            raise GraphError(
                f"a graph of {self.num_nodes} nodes needs a network for each node or none, this one has "
                f"{len(self.networks)} ({', '.join(self.networks)})"
            )
        found = [(edge.source, edge.target) for edge in self.edges]
        expected = [(s, t) for s in range(self.num_nodes) for t in range(self.num_nodes) if s != t]
        if sorted(found) != expected:
            raise GraphError(
                f"a graph of {self.num_nodes} nodes needs exactly one edge for each ordered pair of different nodes "
                f"({len(expected)} edges), this one has {len(found)}: {_pairs(found)}"
            )
        object.__setattr__(self, "edges", tuple(sorted(self.edges, key=lambda edge: (edge.source, edge.target))))

    @property
    def num_nodes(self) -> int:
        """M, the number of network nodes."""
        return len(self.label_gates)

    @property
    def unlearned_nodes(self) -> tuple[int, ...]:
        """Nodes whose incoming edges are all cut off: they keep their initial weights and still vote."""
        learning = {edge.target for edge in self.edges if edge.gate is not Gate.CUTOFF}
        return tuple(node for node, gate in enumerate(self.label_gates) if gate is Gate.CUTOFF and node not in learning)

    @property
    def compares_maps(self) -> bool:
        """Whether some edge that is not cut off compares attention maps."""
        return any(edge.design.compares_maps for edge in self.edges if edge.gate is not Gate.CUTOFF)


def _pairs(pairs: list[tuple[int, int]]) -> str:
    return ", ".join(f"{source + 1}->{target + 1}" for source, target in sorted(pairs)) or "none"
