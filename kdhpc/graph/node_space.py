"""The node space: all choices of the edges into one node.

A node's loss, and whether it learns at all, depend only on the edges into it. So a graph of M nodes is M independent
choices from the node space, and the search space is its M-th power. Graphs are counted, enumerated and drawn node by
node.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from kdhpc.graph.spec import Design, Gate


class EdgeKind(NamedTuple):
    """The design and the gate of a distillation edge, without the nodes that it connects."""

    design: Design
    """What the loss compares."""
    gate: Gate
    """How the loss is weighted."""


NO_EDGE = EdgeKind(Design.PROB_CLOSER, Gate.CUTOFF)
"""The kind that stands for every cutoff edge, whatever its design."""


@dataclass(frozen=True, kw_only=True)
class IncomingEdges:
    """All edges into one node."""

    label_gate: Gate
    """Gate of its label edge."""
    edge_kinds: tuple[EdgeKind, ...]
    """Kinds of its distillation edges, ordered by source node."""

    @property
    def learns(self) -> bool:
        """Whether the node learns: at least one of the edges is not cut off."""
        return any(gate is not Gate.CUTOFF for gate in (self.label_gate, *(edge.gate for edge in self.edge_kinds)))


def canonical_label_gate(gate: Gate) -> Gate:
    """The gate that stands for it on a label edge. Labels are always right, so ``correct`` is ``through`` there."""
    return Gate.THROUGH if gate is Gate.CORRECT else gate


def canonical_edge_kind(kind: EdgeKind) -> EdgeKind:
    """The kind that stands for all that train alike. A cutoff edge's design is never computed: ``NO_EDGE``."""
    return NO_EDGE if kind.gate is Gate.CUTOFF else kind


@dataclass(frozen=True, kw_only=True)
class NodeSpace:
    """All choices of the edges into one node."""

    num_sources: int
    """Number of other nodes, M - 1."""
    label_gates: tuple[Gate, ...]
    """Gates that the label edge may have."""
    gates: tuple[Gate, ...]
    """Gates that the distillation edges may have."""
    designs: tuple[Design, ...]
    """Designs that the distillation edges may have."""
    reject_unlearned: bool
    """Leave out the choice in which all edges are cut off."""

    @property
    def num_raw(self) -> int:
        """Number of raw choices: combinations of gates and designs that are not rejected."""
        labels, edge_kinds = self._label_weights(), self._kind_weights()
        unlearned = labels[Gate.CUTOFF] * edge_kinds[NO_EDGE] ** self.num_sources
        return int(labels.total() * edge_kinds.total() ** self.num_sources - self.reject_unlearned * unlearned)

    @property
    def num_canonical(self) -> int:
        """Number of canonical choices: those that train differently."""
        labels, edge_kinds = self._label_weights(), self._kind_weights()
        unlearned = (Gate.CUTOFF in labels) * (NO_EDGE in edge_kinds) ** self.num_sources
        return int(len(labels) * len(edge_kinds) ** self.num_sources - self.reject_unlearned * unlearned)

    def canonical_forms(self) -> Iterator[tuple[IncomingEdges, int]]:
        """Yield each canonical choice, with the number of raw choices that it stands for."""
        labels, edge_kinds = self._label_weights(), self._kind_weights()
        for label_gate, chosen in product(labels, product(edge_kinds, repeat=self.num_sources)):
            incoming = IncomingEdges(label_gate=label_gate, edge_kinds=chosen)
            if self.admits(incoming):
                yield incoming, labels[label_gate] * math.prod(edge_kinds[kind] for kind in chosen)

    def raw(self, index: int) -> IncomingEdges:
        """The raw choice of that number, 0 to ``num_unfiltered`` - 1. It may be a rejected one."""
        kinds = [EdgeKind(design, gate) for design, gate in product(self.designs, self.gates)]
        index, label = divmod(index, len(self.label_gates))
        edge_kinds = []
        for _ in range(self.num_sources):
            index, kind = divmod(index, len(kinds))
            edge_kinds.append(kinds[kind])
        return IncomingEdges(label_gate=self.label_gates[label], edge_kinds=tuple(edge_kinds))

    @property
    def num_unfiltered(self) -> int:
        """Number of raw choices, with the rejected ones."""
        return int(len(self.label_gates) * (len(self.designs) * len(self.gates)) ** self.num_sources)

    def admits(self, incoming: IncomingEdges) -> bool:
        """Whether a choice is not rejected."""
        return incoming.learns or not self.reject_unlearned

    def _label_weights(self) -> Counter[Gate]:
        return Counter(canonical_label_gate(gate) for gate in self.label_gates)

    def _kind_weights(self) -> Counter[EdgeKind]:
        return Counter(canonical_edge_kind(EdgeKind(d, g)) for d, g in product(self.designs, self.gates))
