"""How often a search space draws each choice: what shares of gates, designs and networks are compared with."""

from collections.abc import Iterator, Mapping

from kdhpc.graph.node_space import canonical_label_gate
from kdhpc.graph.space import Parameter, SearchSpace
from kdhpc.graph.spec import Gate, GraphSpec


def expected_shares(space: SearchSpace) -> Mapping[str, Mapping[str, float]]:
    """The probability of each choice of each parameter, where every raw graph that is not rejected is as likely.

    Choices that train in the same way are one: ``correct`` on a label edge is ``through``. The share of a design is
    that among graphs in which its edge is not cut off, as the others do not have it. A parameter without a choice that
    can be told apart is there as well, with its one choice.

    Returns:
        By the parameter's name and the choice's; the probabilities of a parameter add up to 1.
    """
    return {parameter.name: _shares(space, parameter) for parameter in space.parameters()}


def choices_of(space: SearchSpace, graph: GraphSpec) -> dict[str, str]:
    """What a graph has chosen, by the parameter's name; of edges that are cut off, without the design."""
    chosen = dict(_choices_of(graph))
    return {parameter.name: chosen[parameter.name] for parameter in space.parameters() if parameter.name in chosen}


def _choices_of(graph: GraphSpec) -> Iterator[tuple[str, str]]:
    for node, gate in enumerate(graph.label_gates, start=1):
        yield f"label_{node}_gate", canonical_label_gate(gate).value
    for edge in graph.edges:
        name = f"edge_{edge.source + 1}_{edge.target + 1}"
        yield f"{name}_gate", edge.gate.value
        if edge.gate is not Gate.CUTOFF:
            yield f"{name}_design", edge.design.value
    for node, network in enumerate(graph.networks, start=1):
        yield f"network_{node}", network


def _shares(space: SearchSpace, parameter: Parameter) -> dict[str, float]:
    kind, *rest = parameter.name.split("_")
    if kind == "network" or rest[-1] == "design":
        return dict.fromkeys(parameter.choices, 1 / len(parameter.choices))
    target = int(rest[-2])
    rejects = space.reject_unlearned or (space.node1_learns and target == 1)
    label, edge = space.label_gates.count(Gate.CUTOFF), space.gates.count(Gate.CUTOFF)
    # The share of the draws in which all edges into the node are cut off.
    unlearned = label / len(space.label_gates) * (edge / len(space.gates)) ** (space.num_nodes - 1) if rejects else 0.0
    shares: dict[str, float] = {}
    for gate in parameter.choices:
        name = canonical_label_gate(Gate(gate)).value if kind == "label" else gate
        drawn = 1 / len(parameter.choices) - (unlearned if name == Gate.CUTOFF.value else 0.0)
        shares[name] = shares.get(name, 0.0) + drawn / (1 - unlearned)
    return shares
