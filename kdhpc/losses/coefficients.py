"""The coefficients of a graph: tensors that the losses are multiplied by, so that one program serves every graph.

Dimension suffixes of this room: M nodes; S source nodes and T target nodes (both M); L elementary losses and G gates,
in the order of ``Kinds``; N samples; C classes; H, W rows and columns of an attention map; P = H W its pixels; K crops.
Pairs are indexed [source, target]. The diagonal, a node with itself, is always zero.
"""

from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from kdhpc.graph.catalogue import BUILT_IN_LOSSES, LossEntry, design_entry, outputs_compared
from kdhpc.graph.spec import DistillationEdge, Gate, GraphSpec
from kdhpc.losses.kinds import BUILT_IN_KINDS, Kinds, KindsCode


class Elementary(IntEnum):
    """The paper's four losses. The value is the index along dimension L; losses of plug-ins follow. Source: Eq. 4-7."""

    PROB_CLOSER = 0
    PROB_APART = 1
    ATTENTION_CLOSER = 2
    ATTENTION_APART = 3


class Knowledge(str, Enum):
    """The kind of output by which an edge teaches: its loss depends on this output of the target."""

    LABEL = "label"
    """The logits of all classifiers of the node."""
    PROBABILITY = "probability"
    """The logits that the node votes with."""
    ATTENTION = "attention"
    """The attention map."""


class GraphCoefficients(NamedTuple):
    """The graph's edges as tensors. Graphs of as many nodes differ only in the values, not in the shapes."""

    design_LST: Tensor
    """(L, M, M): 1 where the edge's design has this elementary loss and its gate is not ``cutoff``, else 0."""
    gate_GST: Tensor
    """(G, M, M): 1 where the edge has this gate, else 0."""
    label_gate_GM: Tensor
    """(G, M): 1 where the node's label edge has this gate, else 0."""


class Terms(NamedTuple):
    """Which of the paper's elementary losses are computed, as ``Elementary`` has them. The others cost no time."""

    prob_closer: bool
    """Whether to compute Eq. 4."""
    prob_apart: bool
    """Whether to compute Eq. 5."""
    attention_closer: bool
    """Whether to compute Eq. 6."""
    attention_apart: bool
    """Whether to compute Eq. 7."""


def graph_coefficients(
    graph: GraphSpec, *, device: torch.device | str, dtype: torch.dtype, kinds: Kinds = BUILT_IN_KINDS
) -> GraphCoefficients:
    """The graph's edges as tensors.

    Args:
        graph: A graph of M nodes, with losses and gates of these kinds.
        device: Device of the tensors.
        dtype: Floating point type of the tensors.
        kinds: What stands along the dimensions L and G.

    Returns:
        Tensors of zeros and ones.

    Raises:
        ValueError: the graph has another loss or gate.

    Source: paper Eq. 4-11.
    """
    num_nodes = graph.num_nodes
    design_LST = torch.zeros(len(kinds.losses), num_nodes, num_nodes, dtype=dtype)
    gate_GST = torch.zeros(len(kinds.gates), num_nodes, num_nodes, dtype=dtype)
    label_gate_GM = torch.zeros(len(kinds.gates), num_nodes, dtype=dtype)
    for edge in _active_edges(graph):
        gate_GST[kinds.gates.index(edge.gate), edge.source, edge.target] = 1
        for loss in design_entry(edge.design).losses:
            design_LST[kinds.losses.index(loss), edge.source, edge.target] = 1
    for node, gate in enumerate(graph.label_gates):
        if gate is not Gate.CUTOFF:
            label_gate_GM[kinds.gates.index(gate), node] = 1
    return GraphCoefficients(
        design_LST=design_LST.to(device), gate_GST=gate_GST.to(device), label_gate_GM=label_gate_GM.to(device)
    )


def _active_edges(graph: GraphSpec) -> Iterator[DistillationEdge]:
    return (edge for edge in graph.edges if edge.gate is not Gate.CUTOFF)


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
    between_nodes = 1 - torch.eye(coefficients.gate_GST.shape[-1], device=coefficients.gate_GST.device)
    others = GraphCoefficients(*map(other_weight, coefficients))
    return others._replace(design_LST=others.design_LST * between_nodes, gate_GST=others.gate_GST * between_nodes)


def needed_terms(graph: GraphSpec) -> Terms:
    """The elementary losses of the paper that at least one edge of the graph uses."""
    used = _losses_used(graph)
    return Terms(*(BUILT_IN_LOSSES[part] in used for part in Elementary))


def all_terms(num_nodes: int) -> Terms:
    """The elementary losses that graphs of so many nodes may use: all, but none of a single node."""
    return Terms(*(num_nodes > 1 for _ in Elementary))


def needed_code(graph: GraphSpec, kinds: Kinds) -> KindsCode:
    """The code of the kinds, without elementary losses of plug-ins that no edge of the graph uses."""
    used = _losses_used(graph)
    entries = kinds.losses[len(Elementary) :]
    losses = (code if entry in used else None for entry, code in zip(entries, kinds.code.losses, strict=True))
    return kinds.code._replace(losses=tuple(losses))


def _losses_used(graph: GraphSpec) -> frozenset[LossEntry]:
    return frozenset(loss for edge in _active_edges(graph) for loss in design_entry(edge.design).losses)


def knowledge_taught(graph: GraphSpec) -> tuple[frozenset[Knowledge], ...]:
    """For each of the M nodes, the kinds of output by which the active edges into it teach.

    An edge is active unless its gate is ``cutoff``. That is a property of the graph, not of a batch: an edge is active
    even if its ``correct`` gate stops every sample of a batch.
    """
    taught: list[set[Knowledge]] = [set() if gate is Gate.CUTOFF else {Knowledge.LABEL} for gate in graph.label_gates]
    for edge in _active_edges(graph):
        taught[edge.target].update(map(Knowledge, outputs_compared(edge.design)))
    return tuple(frozenset(knowledge) for knowledge in taught)
