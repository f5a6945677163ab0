import pytest

from kdhpc.graph.neighbours import mutations, neighbours, presets_in
from kdhpc.graph.presets import dml, independent
from kdhpc.graph.space import SearchSpace, canonical, graph_key
from kdhpc.graph.spec import Design, Gate, GraphSpec

SPACE = SearchSpace(num_nodes=2)


def num_different_edges(one: GraphSpec, other: GraphSpec) -> int:
    pairs = (*zip(one.label_gates, other.label_gates, strict=True), *zip(one.edges, other.edges, strict=True))
    return sum(a != b for a, b in pairs)


@pytest.mark.parametrize("slot", range(5))
def test_neighbours_differ_in_one_edge_and_never_train_alike(slot: int) -> None:
    graph = SPACE.graph(3, slot)
    found = neighbours(SPACE, graph)
    assert all(canonical(near) == near and num_different_edges(graph, near) == 1 for near in found)
    # 2 other label gates for each node, and for each of two edges 18 of 19 kinds: 3 gates x 6 designs, or cut off.
    assert len({graph_key(near) for near in found}) == len(found) == 2 * 2 + 2 * 18


def test_mutations_change_a_gate_or_a_design_or_open_an_edge() -> None:
    label_1, label_2, edge_12, edge_21 = mutations(SPACE, dml(2))
    assert {near.label_gates for near in label_1} == {(gate, Gate.THROUGH) for gate in (Gate.CUTOFF, Gate.LINEAR)}
    assert len(label_2) == 2
    assert len(edge_12) == len(edge_21) == 5 + 3  # Other designs, other gates with cutoff.
    assert [len(group) for group in mutations(SPACE, independent(2))] == [2, 2, 18, 18]


def test_neighbours_stay_in_the_space() -> None:
    small = SearchSpace(
        num_nodes=2,
        label_gates=(Gate.CUTOFF, Gate.CORRECT),
        gates=(Gate.CUTOFF, Gate.CORRECT),
        designs=(Design.ATTENTION_APART,),
        reject_unlearned=True,
    )
    found = neighbours(small, independent(2))
    assert [graph_key(small.from_parameters(small.to_parameters(near))) for near in found] == list(
        map(graph_key, found)
    )
    assert len(found) == 2  # Without its label, a node would learn nothing.
    assert presets_in(small) == (independent(2),)


def test_neighbours_of_a_graph_with_networks_also_differ_in_what_one_node_is() -> None:
    space = SearchSpace(num_nodes=2, networks=("a", "b", "c"), node1_network="a")
    graph = space.graph(3, 0)
    edges = len(neighbours(SPACE, SPACE.graph(3, 0)))
    found = neighbours(space, graph)
    changed = [near for near in found if near.networks != graph.networks]
    assert len({graph_key(near) for near in found}) == len(found) == edges + 2
    assert {near.networks for near in changed} | {graph.networks} == {("a", "a"), ("a", "b"), ("a", "c")}
    assert all(num_different_edges(graph, near) == 0 for near in changed)
    assert [near.networks for near in mutations(space, graph)[-1]] == [near.networks for near in changed]


def test_presets_in_a_space_are_each_there_once() -> None:
    first = presets_in(SPACE)
    assert first[:2] == (independent(2), dml(2))
    assert len(first) == len(set(first)) == 7
