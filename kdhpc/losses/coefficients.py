"""A graph as numbers: what the losses multiply, so that one program serves every graph.

Dimension suffixes, in this room: M nodes; S source nodes and T target nodes (both M); L elementary losses, in the order
of ``Elementary``; N samples; C classes; H, W rows and columns of an attention map; P = H W its pixels; K crops.
Pairs are indexed [source, target]. The diagonal, a node with itself, is always zero.
"""

from enum import Enum, IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from kdhpc.graph.spec import Design, Gate, GraphSpec


class Elementary(IntEnum):
    """The four losses that designs are made of, by their place along L."""

    PROB_CLOSER = 0
    PROB_APART = 1
    ATTENTION_CLOSER = 2
    ATTENTION_APART = 3


_PARTS: dict[Design, tuple[Elementary, ...]] = {
    Design.PROB_CLOSER: (Elementary.PROB_CLOSER,),
    Design.PROB_APART: (Elementary.PROB_APART,),
    Design.ATTENTION_CLOSER: (Elementary.ATTENTION_CLOSER,),
    Design.ATTENTION_APART: (Elementary.ATTENTION_APART,),
    Design.BOTH_CLOSER: (Elementary.PROB_CLOSER, Elementary.ATTENTION_CLOSER),
    Design.BOTH_APART: (Elementary.PROB_APART, Elementary.ATTENTION_APART),
}


class Knowledge(str, Enum):
    """What an edge teaches by: the outputs of its target that its loss depends on."""

    LABEL = "label"
    """The logits of all classifiers of the node."""
    PROBABILITY = "probability"
    """The logits that the node votes with."""
    ATTENTION = "attention"
    """The attention map."""


_KNOWLEDGE: dict[Elementary, Knowledge] = {
    Elementary.PROB_CLOSER: Knowledge.PROBABILITY,
    Elementary.PROB_APART: Knowledge.PROBABILITY,
    Elementary.ATTENTION_CLOSER: Knowledge.ATTENTION,
    Elementary.ATTENTION_APART: Knowledge.ATTENTION,
}


class GraphCoefficients(NamedTuple):
    """The graph's edges as tensors. Shapes depend on M alone, so other graphs are other values."""

    design_LST: Tensor
    """1 where the edge's design has this elementary loss and its gate is not ``cutoff``, else 0."""
    through_ST: Tensor
    """1 where the gate is ``through``."""
    linear_ST: Tensor
    """1 where the gate is ``linear``."""
    correct_ST: Tensor
    """1 where the gate is ``correct``."""
    label_through_M: Tensor
    """1 where the label edge's gate is ``through`` or ``correct``: the label is always right about itself."""
    label_linear_M: Tensor
    """1 where the label edge's gate is ``linear``."""


class Terms(NamedTuple):
    """Which elementary losses a program computes, in the order of ``Elementary``; the others cost nothing."""

    prob_closer: bool
    """Eq. 4."""
    prob_apart: bool
    """Eq. 5."""
    attention_closer: bool
    """Eq. 6."""
    attention_apart: bool
    """Eq. 7."""


def graph_coefficients(graph: GraphSpec, *, device: torch.device | str, dtype: torch.dtype) -> GraphCoefficients:
    """The graph's edges as tensors of that dtype. Source: paper Eq. 4-11."""
    num_nodes = graph.num_nodes
    design_LST = torch.zeros(len(Elementary), num_nodes, num_nodes, dtype=dtype)
    gate_ST = {gate: torch.zeros(num_nodes, num_nodes, dtype=dtype) for gate in Gate}
    for edge in graph.edges:
        gate_ST[edge.gate][edge.source, edge.target] = 1
        if edge.gate is not Gate.CUTOFF:
            for part in _PARTS[edge.design]:
                design_LST[part, edge.source, edge.target] = 1
    label_through = [float(gate in (Gate.THROUGH, Gate.CORRECT)) for gate in graph.label_gates]
    label_linear = [float(gate is Gate.LINEAR) for gate in graph.label_gates]
    return GraphCoefficients(
        design_LST=design_LST.to(device),
        through_ST=gate_ST[Gate.THROUGH].to(device),
        linear_ST=gate_ST[Gate.LINEAR].to(device),
        correct_ST=gate_ST[Gate.CORRECT].to(device),
        label_through_M=torch.tensor(label_through, dtype=dtype, device=device),
        label_linear_M=torch.tensor(label_linear, dtype=dtype, device=device),
    )


def other_weight(weight: Tensor) -> Tensor:
    """Another weight for each: no term that it multiplies is left out, and none has the weight that it had.

    Args:
        weight: Of any shape, values from 0 to 1: coefficients, or a ramp.
    """
    return torch.where(weight < 0.5, 1.0, 0.25).to(weight.dtype)


def other_coefficients(coefficients: GraphCoefficients) -> GraphCoefficients:
    """Another value for every coefficient. No graph has these: every edge has all designs and gates, by some weight."""
    between_nodes = 1 - torch.eye(len(coefficients.through_ST), device=coefficients.through_ST.device)
    others = GraphCoefficients(*map(other_weight, coefficients))
    pairs = ("design_LST", "through_ST", "linear_ST", "correct_ST")
    return others._replace(**{name: getattr(others, name) * between_nodes for name in pairs})


def needed_terms(graph: GraphSpec) -> Terms:
    """Those that some edge of the graph uses."""
    used = {part for edge in graph.edges if edge.gate is not Gate.CUTOFF for part in _PARTS[edge.design]}
    return Terms(*(part in used for part in Elementary))


def all_terms(num_nodes: int) -> Terms:
    """Those that some graph of so many nodes uses: all, or none of a single node."""
    return Terms(*(num_nodes > 1 for _ in Elementary))


def knowledge_taught(graph: GraphSpec) -> tuple[frozenset[Knowledge], ...]:
    """What the active edges into each node teach it by.

    An edge is active unless its gate is ``cutoff``. That is a property of the graph: an edge whose ``correct`` gate
    stops every sample of a batch is active all the same.
    """
    taught: list[set[Knowledge]] = [set() if gate is Gate.CUTOFF else {Knowledge.LABEL} for gate in graph.label_gates]
    for edge in graph.edges:
        if edge.gate is not Gate.CUTOFF:
            taught[edge.target].update(_KNOWLEDGE[part] for part in _PARTS[edge.design])
    return tuple(frozenset(knowledge) for knowledge in taught)
