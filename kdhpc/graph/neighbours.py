"""Graphs that differ from another one in a single edge, or in one node's network. Samplers walk along them.

All are canonical, so that two neighbours never train alike: an edge that is cut off has one form, whatever its design.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from kdhpc.errors import GraphError
from kdhpc.graph.node_space import NO_EDGE, EdgeKind, canonical_edge_kind, canonical_label_gate
from kdhpc.graph.presets import PRESETS
from kdhpc.graph.space import SearchSpace, canonical, edge_of, graph_key
from kdhpc.graph.spec import GraphSpec


def neighbours(space: SearchSpace, graph: GraphSpec) -> tuple[GraphSpec, ...]:
    """All graphs of a space that differ from a graph in one edge (its gate, its design, or both) or one network."""
    groups = (*_by_edge(space, graph, one_change=False), *_by_network(space, graph))
    return tuple(neighbour for group in groups for neighbour in group)


def mutations(space: SearchSpace, graph: GraphSpec) -> tuple[tuple[GraphSpec, ...], ...]:
    """All graphs of a space that differ from a graph in one edge's gate or design, by edge; or in one node's network,
    by node. Edges and nodes without any are left out.

    An edge that is cut off has no design: opening it chooses one, with any gate.
    """
    return (*_by_edge(space, graph, one_change=True), *_by_network(space, graph))


def presets_in(space: SearchSpace) -> tuple[GraphSpec, ...]:
    """The presets that a space contains, in canonical form, each once: ``independent``, ``dml``, then the others."""
    names = sorted(PRESETS, key=lambda name: (name != "independent", name != "dml"))
    found: dict[str, GraphSpec] = {}
    for name in names:
        preset = canonical(PRESETS[name](space.num_nodes))
        try:
            space.to_parameters(preset)
        except GraphError:
            continue
        if space.admits(preset):
            found.setdefault(graph_key(preset), preset)
    return tuple(found.values())


def _by_edge(space: SearchSpace, graph: GraphSpec, *, one_change: bool) -> Iterator[tuple[GraphSpec, ...]]:
    graph = canonical(graph)
    gates = list(dict.fromkeys(canonical_label_gate(gate) for gate in space.label_gates))
    kinds = list(dict.fromkeys(canonical_edge_kind(EdgeKind(*kind)) for kind in product(space.designs, space.gates)))
    for node, old in enumerate(graph.label_gates):
        changed = (
            replace(graph, label_gates=(*graph.label_gates[:node], gate, *graph.label_gates[node + 1 :]))
            for gate in gates
            if gate is not old
        )
        if group := tuple(filter(space.admits, changed)):
            yield group
    for place, edge in enumerate(graph.edges):
        now = EdgeKind(edge.design, edge.gate)
        changed = (
            replace(
                graph,
                edges=(*graph.edges[:place], edge_of(edge.source, edge.target, kind), *graph.edges[place + 1 :]),
            )
            for kind in kinds
            if kind != now and (not one_change or _is_one_change(now, kind))
        )
        if group := tuple(filter(space.admits, changed)):
            yield group


def _by_network(space: SearchSpace, graph: GraphSpec) -> Iterator[tuple[GraphSpec, ...]]:
    """By node; none of a graph that names no networks."""
    graph = canonical(graph)
    for node, old in enumerate(graph.networks):
        names = graph.networks
        changed = ((*names[:node], name, *names[node + 1 :]) for name in space.networks_of(node) if name != old)
        if group := tuple(replace(graph, networks=networks) for networks in changed):
            yield group


def _is_one_change(old: EdgeKind, new: EdgeKind) -> bool:
    return NO_EDGE in (old, new) or (old.design is new.design) != (old.gate is new.gate)
