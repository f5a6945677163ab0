"""All raw graphs of a space by brute force, written without the code under test."""

from collections.abc import Iterator
from itertools import product

from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec


def every_graph(
    num_nodes: int,
    label_gates: tuple[Gate, ...] = tuple(Gate),
    gates: tuple[Gate, ...] = tuple(Gate),
    designs: tuple[Design, ...] = tuple(Design),
) -> Iterator[GraphSpec]:
    pairs = [(source, target) for source in range(num_nodes) for target in range(num_nodes) if source != target]
    for labels in product(label_gates, repeat=num_nodes):
        for kinds in product(product(gates, designs), repeat=len(pairs)):
            edges = [
                DistillationEdge(source=source, target=target, design=design, gate=gate)
                for (source, target), (gate, design) in zip(pairs, kinds, strict=True)
            ]
            yield GraphSpec(label_gates=labels, edges=tuple(edges))


def behaviour(graph: GraphSpec) -> tuple[frozenset[tuple[int, str]], frozenset[tuple[int, int, str, str]]]:
    """What a graph does to its nodes: two graphs with the same behaviour train in the same way."""
    labels = {
        (node, "through" if gate is Gate.CORRECT else gate.value)
        for node, gate in enumerate(graph.label_gates)
        if gate is not Gate.CUTOFF
    }
    edges = {(e.source, e.target, e.design.value, e.gate.value) for e in graph.edges if e.gate is not Gate.CUTOFF}
    return frozenset(labels), frozenset(edges)
