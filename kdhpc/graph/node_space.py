"""What one node can be taught: the factor whose M-th power is the search space.

A node's loss, and whether it learns at all, depend on its own incoming edges only. So the graphs of M nodes are all
combinations of M such choices, and counting, enumerating and drawing are done for one node.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from kdhpc.graph.spec import Design, Gate


class Teaching(NamedTuple):
    """What a distillation edge does, whichever nodes it connects."""

    design: Design
    gate: Gate


NO_TEACHING = Teaching(Design.PROB_CLOSER, Gate.CUTOFF)
"""The canonical form of every cutoff edge."""


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """All edges into one node."""

    label_gate: Gate
    """Gate of its label edge."""
    teachings: tuple[Teaching, ...]
    """Its distillation edges, by rising source."""

    @property
    def learns(self) -> bool:
        """Whether any of them lets a gradient through."""
        return any(gate is not Gate.CUTOFF for gate in (self.label_gate, *(edge.gate for edge in self.teachings)))


def canonical_label_gate(gate: Gate) -> Gate:
    """The label is right about every sample, so ``correct`` is ``through``."""
    return Gate.THROUGH if gate is Gate.CORRECT else gate


def canonical_teaching(teaching: Teaching) -> Teaching:
    """The design of a cutoff edge is never computed, so one of them stands for all."""
    return NO_TEACHING if teaching.gate is Gate.CUTOFF else teaching


@dataclass(frozen=True, kw_only=True)
class IncomingSpace:
    """Every way of teaching one node."""

    num_sources: int
    """The other network nodes, M - 1."""
    label_gates: tuple[Gate, ...]
    """Gates that its label edge may have."""
    gates: tuple[Gate, ...]
    """Gates that its distillation edges may have."""
    designs: tuple[Design, ...]
    """Designs that its distillation edges may have."""
    reject_unlearned: bool
    """Leave out the ways that teach nothing."""

    @property
    def num_raw(self) -> int:
        """Combinations of gates and designs."""
        labels, teachings = self._label_weights(), self._teaching_weights()
        unlearned = labels[Gate.CUTOFF] * teachings[NO_TEACHING] ** self.num_sources
        return int(labels.total() * teachings.total() ** self.num_sources - self.reject_unlearned * unlearned)

    @property
    def num_canonical(self) -> int:
        """Combinations that train differently."""
        labels, teachings = self._label_weights(), self._teaching_weights()
        unlearned = (Gate.CUTOFF in labels) * (NO_TEACHING in teachings) ** self.num_sources
        return int(len(labels) * len(teachings) ** self.num_sources - self.reject_unlearned * unlearned)

    def canonical_forms(self) -> Iterator[tuple[Incoming, int]]:
        """Each canonical combination, with the number of raw ones that it stands for."""
        labels, teachings = self._label_weights(), self._teaching_weights()
        for label_gate, chosen in product(labels, product(teachings, repeat=self.num_sources)):
            incoming = Incoming(label_gate=label_gate, teachings=chosen)
            if self.admits(incoming):
                yield incoming, labels[label_gate] * math.prod(teachings[teaching] for teaching in chosen)

    def raw(self, index: int) -> Incoming:
        """A raw combination by number, 0 to ``num_unfiltered`` - 1."""
        kinds = [Teaching(design, gate) for design, gate in product(self.designs, self.gates)]
        index, label = divmod(index, len(self.label_gates))
        teachings = []
        for _ in range(self.num_sources):
            index, kind = divmod(index, len(kinds))
            teachings.append(kinds[kind])
        return Incoming(label_gate=self.label_gates[label], teachings=tuple(teachings))

    @property
    def num_unfiltered(self) -> int:
        """Raw combinations, those that are rejected included."""
        return int(len(self.label_gates) * (len(self.designs) * len(self.gates)) ** self.num_sources)

    def admits(self, incoming: Incoming) -> bool:
        """Whether a combination is not rejected."""
        return incoming.learns or not self.reject_unlearned

    def _label_weights(self) -> Counter[Gate]:
        return Counter(canonical_label_gate(gate) for gate in self.label_gates)

    def _teaching_weights(self) -> Counter[Teaching]:
        return Counter(canonical_teaching(Teaching(d, g)) for d, g in product(self.designs, self.gates))
