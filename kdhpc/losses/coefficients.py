"""The coefficients of a graph: tensors that the losses are multiplied by, so that one program serves every graph.

Dimension suffixes of this room: M nodes; S source nodes and T target nodes (both M); L elementary losses, in the order
of ``Elementary``; N samples; C classes; H, W rows and columns of an attention map; P = H W its pixels; K crops.
Pairs are indexed [source, target]. The diagonal, a node with itself, is always zero.
"""

from enum import Enum, IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from kdhpc.graph.spec import Design, Gate, GraphSpec


class Elementary(IntEnum):
    """The four losses that designs are sums of. The value is the index along dimension L. Source: paper Eq. 4-7."""

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
    """The kind of output by which an edge teaches: its loss depends on this output of the target."""

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
    """The graph's edges as tensors. Graphs of as many nodes differ only in the values, not in the shapes."""

    design_LST: Tensor
    """(L, M, M): 1 where the edge's design has this elementary loss and its gate is not ``cutoff``, else 0."""
    through_ST: Tensor
    """(M, M): 1 where the gate is ``through``, else 0."""
    linear_ST: Tensor
    """(M, M): 1 where the gate is ``linear``, else 0."""
    correct_ST: Tensor
    """(M, M): 1 where the gate is ``correct``, else 0."""
    label_through_M: Tensor
    """(M,): 1 where the label edge's gate is ``through``, or ``correct``, as labels are always right; else 0."""
    label_linear_M: Tensor
    """(M,): 1 where the label edge's gate is ``linear``, else 0."""


class Terms(NamedTuple):
    """Which elementary losses are computed, in the order of ``Elementary``. The others cost no time."""

    prob_closer: bool
    """Whether to compute Eq. 4."""
    prob_apart: bool
    """Whether to compute Eq. 5."""
    attention_closer: bool
    """Whether to compute Eq. 6."""
    attention_apart: bool
    """Whether to compute Eq. 7."""


def graph_coefficients(graph: GraphSpec, *, device: torch.device | str, dtype: torch.dtype) -> GraphCoefficients:
    """The graph's edges as tensors.

    Args:
        graph: A graph of M nodes.
        device: Device of the tensors.
        dtype: Floating point type of the tensors.

    Returns:
        Tensors of zeros and ones.

    Source: paper Eq. 4-11.
    """
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
    """A different, positive weight for each weight: 1 for those below 0.5, and 0.25 for all others.

    A check of a program uses such weights: every term counts, and each with another weight than before.

    Args:
        weight: Coefficients or a ramp, of any shape, with values from 0 to 1.

    Returns:
        The new weights, of the same shape and dtype.
    """
    return torch.where(weight < 0.5, 1.0, 0.25).to(weight.dtype)


def other_coefficients(coefficients: GraphCoefficients) -> GraphCoefficients:
    """A different value for every coefficient between different nodes; see `other_weight`.

    No graph has such coefficients: every edge has all designs and all gates, each with some weight.
    """
    between_nodes = 1 - torch.eye(len(coefficients.through_ST), device=coefficients.through_ST.device)
    others = GraphCoefficients(*map(other_weight, coefficients))
    pairs = ("design_LST", "through_ST", "linear_ST", "correct_ST")
    return others._replace(**{name: getattr(others, name) * between_nodes for name in pairs})


def needed_terms(graph: GraphSpec) -> Terms:
    """The elementary losses that at least one edge of the graph uses."""
    used = {part for edge in graph.edges if edge.gate is not Gate.CUTOFF for part in _PARTS[edge.design]}
    return Terms(*(part in used for part in Elementary))


def all_terms(num_nodes: int) -> Terms:
    """The elementary losses that graphs of so many nodes may use: all, but none of a single node."""
    return Terms(*(num_nodes > 1 for _ in Elementary))


def knowledge_taught(graph: GraphSpec) -> tuple[frozenset[Knowledge], ...]:
    """For each of the M nodes, the kinds of output by which the active edges into it teach.

    An edge is active unless its gate is ``cutoff``. That is a property of the graph, not of a batch: an edge is active
    even if its ``correct`` gate stops every sample of a batch.
    """
    taught: list[set[Knowledge]] = [set() if gate is Gate.CUTOFF else {Knowledge.LABEL} for gate in graph.label_gates]
    for edge in graph.edges:
        if edge.gate is not Gate.CUTOFF:
            taught[edge.target].update(_KNOWLEDGE[part] for part in _PARTS[edge.design])
    return tuple(frozenset(knowledge) for knowledge in taught)
