import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from scipy import stats

from kdhpc.errors import GraphError
from kdhpc.graph.presets import dml, independent
from kdhpc.graph.space import SearchSpace, canonical, graph_key
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from tests.graph.every_graph import behaviour, every_graph

FULL = SearchSpace(num_nodes=2)
SMALL = SearchSpace(num_nodes=2, gates=(Gate.CUTOFF, Gate.THROUGH), designs=(Design.PROB_CLOSER, Design.BOTH_APART))


@cache
def every_raw() -> tuple[GraphSpec, ...]:
    return tuple(every_graph(2))


def test_full_space_has_the_known_counts() -> None:
    assert (FULL.num_raw, FULL.num_canonical) == (9_216, 3_249)
    three = SearchSpace(num_nodes=3)
    assert (three.num_raw, three.num_canonical) == (4**3 * 24**6, 27 * 19**6)


def test_canonical_of_every_raw_graph_merges_exactly_what_behaves_the_same() -> None:
    raw = every_raw()
    assert len(raw) == len(set(raw)) == FULL.num_raw
    pairs = {(behaviour(graph), canonical(graph)) for graph in raw}
    assert len(pairs) == len({form for _, form in pairs}) == len({done for done, _ in pairs}) == FULL.num_canonical


def test_canonical_of_every_canonical_graph_is_itself() -> None:
    forms = {canonical(graph) for graph in every_raw()}
    assert all(canonical(form) == form for form in forms)
    assert all(behaviour(canonical(graph)) == behaviour(graph) for graph in every_raw())


def test_canonical_of_permuted_nodes_stays_different() -> None:
    graph = GraphSpec(label_gates=(Gate.THROUGH, Gate.LINEAR), edges=independent(2).edges)
    permuted = GraphSpec(label_gates=(Gate.LINEAR, Gate.THROUGH), edges=independent(2).edges)
    assert canonical(graph) != canonical(permuted)


def test_graph_key_of_every_raw_graph_names_its_canonical_form() -> None:
    keys = {graph_key(graph): canonical(graph) for graph in every_raw()}
    assert len(keys) == FULL.num_canonical
    assert all(len(key) == 12 and set(key) <= set("0123456789abcdef") for key in keys)
    assert all(graph_key(form) == key for key, form in keys.items())


SPACES = [
    SearchSpace(num_nodes=1),
    SearchSpace(num_nodes=1, label_gates=(Gate.CORRECT, Gate.LINEAR)),
    SearchSpace(num_nodes=2, label_gates=(Gate.CORRECT,)),
    SearchSpace(num_nodes=2, label_gates=(Gate.CUTOFF, Gate.CORRECT), designs=(Design.PROB_APART,)),
    SearchSpace(num_nodes=2, gates=(Gate.CUTOFF,)),
    SearchSpace(num_nodes=2, gates=(Gate.LINEAR, Gate.CORRECT), designs=(Design.BOTH_APART, Design.PROB_CLOSER)),
    SearchSpace(
        num_nodes=3,
        label_gates=(Gate.CUTOFF, Gate.THROUGH),
        gates=(Gate.CUTOFF, Gate.THROUGH),
        designs=(Design.ATTENTION_CLOSER, Design.PROB_APART),
    ),
    SearchSpace(
        num_nodes=3, label_gates=(Gate.CUTOFF,), gates=(Gate.CUTOFF, Gate.LINEAR), designs=(Design.PROB_APART,)
    ),
]


@pytest.mark.parametrize("reject", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_restricted_space_counts_and_draws_exactly_its_graphs(space: SearchSpace, reject: bool) -> None:
    space = replace(space, reject_unlearned=reject)
    everything = every_graph(space.num_nodes, space.label_gates, space.gates, space.designs)
    raw = [graph for graph in everything if not (reject and graph.unlearned_nodes)]
    forms = {canonical(graph) for graph in raw}
    assert (space.num_raw, space.num_canonical) == (len(raw), len(forms))
    assert {space.graph(3, slot) for slot in range(len(forms))} == forms
    assert all(space.admits(graph) for graph in raw)


def test_slots_of_a_small_space_cover_every_graph_once_a_round() -> None:
    first = [FULL.graph(5, slot) for slot in range(3_249)]
    second = [FULL.graph(5, slot) for slot in range(3_249, 2 * 3_249)]
    everything = {canonical(graph) for graph in every_raw()}
    assert len(everything) == 3_249
    assert set(first) == set(second) == everything
    assert first != second


def test_first_slots_over_seeds_are_as_frequent_as_their_raw_graphs() -> None:
    raw = every_graph(2, SMALL.label_gates, SMALL.gates, SMALL.designs)
    weights = Counter(canonical(graph) for graph in raw)
    total = sum(weights.values())
    num_seeds = 4000
    drawn = [(SMALL.graph(seed, 0), SMALL.graph(seed, 1)) for seed in range(num_seeds)]
    first, second = Counter(a for a, _ in drawn), Counter(b for _, b in drawn)
    assert all(a != b for a, b in drawn)
    graphs = list(weights)
    probability_first = {graph: weights[graph] / total for graph in graphs}
    probability_second = {
        graph: sum(
            probability_first[other] * weights[graph] / (total - weights[other]) for other in graphs if other != graph
        )
        for graph in graphs
    }
    for found, probability in ((first, probability_first), (second, probability_second)):
        expected = [num_seeds * probability[graph] for graph in graphs]
        assert stats.chisquare([found[graph] for graph in graphs], expected).pvalue > 1e-3


def test_slots_of_a_large_space_draw_every_gate_and_design_evenly() -> None:
    space = SearchSpace(num_nodes=3)
    graphs = [space.graph(1, slot) for slot in range(3000)]
    labels = Counter(gate for graph in graphs for gate in graph.label_gates)
    assert labels[Gate.CORRECT] == 0
    observed = [labels[Gate.THROUGH], labels[Gate.CUTOFF], labels[Gate.LINEAR]]
    assert stats.chisquare(observed, [4500, 2250, 2250]).pvalue > 1e-3
    edges = [edge for graph in graphs for edge in graph.edges]
    gates = Counter(edge.gate for edge in edges)
    assert stats.chisquare([gates[gate] for gate in Gate]).pvalue > 1e-3
    designs = Counter(edge.design for edge in edges if edge.gate is not Gate.CUTOFF)
    assert stats.chisquare([designs[design] for design in Design]).pvalue > 1e-3
    pairs = Counter((graph.edges[0].gate, graph.edges[5].gate) for graph in graphs)
    assert stats.chisquare([pairs[a, b] for a in Gate for b in Gate]).pvalue > 1e-3


def test_slots_of_a_large_space_with_rejection_are_its_graphs_without_the_rejected() -> None:
    space = SearchSpace(num_nodes=3, reject_unlearned=True)
    graphs = [space.graph(1, slot) for slot in range(3000)]
    assert not any(graph.unlearned_nodes for graph in graphs)
    # One node: 4 label gates and 2 edges of 4 gates; 1 of 64 combinations is rejected.
    labels = Counter(gate for graph in graphs for gate in graph.label_gates)
    observed = [labels[Gate.THROUGH], labels[Gate.CUTOFF], labels[Gate.LINEAR]]
    expected = [9000 * 32 / 63, 9000 * 15 / 63, 9000 * 16 / 63]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


PINNED = {
    (1, 0): "48d55245410e",
    (1, 1): "2abb5694590a",
    (2, 0): "78e9b33c288c",
    (2, 4000): "4c16d502fc77",
    (3, 0): "f9714adac163",
    (3, 4000): "de996c61ff1a",
    (5, 1): "f57a169ce744",
}


@pytest.mark.parametrize("order", [1, -1])
def test_graph_of_a_seed_and_slot_never_changes(order: int) -> None:
    for (num_nodes, slot), key in list(PINNED.items())[::order]:
        assert graph_key(SearchSpace(num_nodes=num_nodes).graph(7, slot)) == key


def test_graph_in_another_process_is_the_same() -> None:
    program = (
        "from kdhpc.graph.space import SearchSpace, graph_key\n"
        f"for num_nodes, slot in {list(PINNED)}:\n"
        "    print(graph_key(SearchSpace(num_nodes=num_nodes).graph(7, slot)))\n"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == list(PINNED.values())


def test_graph_of_another_seed_or_slot_differs() -> None:
    space = SearchSpace(num_nodes=4)
    graphs = [space.graph(seed, slot) for seed in range(10) for slot in range(10)]
    assert len(set(graphs)) == 100


def test_space_with_gates_in_another_order_is_the_same_space() -> None:
    turned = SearchSpace(
        num_nodes=2,
        label_gates=tuple(reversed(Gate)),
        gates=tuple(reversed(Gate)),
        designs=tuple(reversed(Design)),
    )
    assert turned == FULL
    assert [turned.graph(0, slot) for slot in range(5)] == [FULL.graph(0, slot) for slot in range(5)]


def test_largest_space_without_replacement_and_the_next_larger_both_draw() -> None:
    largest = SearchSpace(
        num_nodes=4,
        label_gates=(Gate.CUTOFF, Gate.LINEAR),
        gates=(Gate.CUTOFF, Gate.THROUGH),
        designs=(Design.PROB_CLOSER,),
    )
    assert largest.num_canonical == 65_536
    assert len({largest.graph(0, slot) for slot in range(65_536 - 3000, 65_536)}) == 3000
    larger = replace(largest, label_gates=tuple(Gate))
    assert larger.num_canonical == 3**4 * 2**12
    assert len({larger.graph(0, slot) for slot in range(100)}) > 90


def test_parameters_of_every_raw_graph_and_back_give_the_graph() -> None:
    for graph in every_raw():
        parameters = FULL.to_parameters(graph)
        assert FULL.from_parameters(parameters) == graph


def test_parameters_name_all_choices_with_source_before_target() -> None:
    assert [(parameter.name, parameter.choices) for parameter in SMALL.parameters()] == [
        ("label_1_gate", ("through", "cutoff", "linear", "correct")),
        ("label_2_gate", ("through", "cutoff", "linear", "correct")),
        ("edge_1_2_gate", ("through", "cutoff")),
        ("edge_1_2_design", ("prob+", "prob-att-")),
        ("edge_2_1_gate", ("through", "cutoff")),
        ("edge_2_1_design", ("prob+", "prob-att-")),
    ]
    edges = (
        DistillationEdge(source=0, target=1, design=Design.BOTH_APART, gate=Gate.THROUGH),
        DistillationEdge(source=1, target=0, design=Design.PROB_CLOSER, gate=Gate.CUTOFF),
    )
    assert SMALL.to_parameters(GraphSpec(label_gates=(Gate.LINEAR, Gate.CORRECT), edges=edges)) == {
        "label_1_gate": "linear",
        "label_2_gate": "correct",
        "edge_1_2_gate": "through",
        "edge_1_2_design": "prob-att-",
        "edge_2_1_gate": "cutoff",
        "edge_2_1_design": "prob+",
    }


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_parameters_of_drawn_graphs_stay_in_a_restricted_space(space: SearchSpace) -> None:
    choices = {parameter.name: parameter.choices for parameter in space.parameters()}
    for slot in range(min(space.num_canonical, 200)):
        graph = space.graph(0, slot)
        parameters = space.to_parameters(graph)
        assert set(parameters) == set(choices)
        assert all(value in choices[name] for name, value in parameters.items())
        assert canonical(space.from_parameters(parameters)) == graph


def test_parameters_of_a_graph_outside_the_space_are_refused() -> None:
    with pytest.raises(GraphError, match=r"edge_1_2_gate=linear is not allowed: .*allowed: cutoff, through"):
        SMALL.to_parameters(
            GraphSpec(
                label_gates=(Gate.THROUGH,) * 2,
                edges=tuple(
                    DistillationEdge(source=s, target=1 - s, design=Design.PROB_CLOSER, gate=Gate.LINEAR)
                    for s in (0, 1)
                ),
            )
        )
    with pytest.raises(GraphError, match="a graph of 3 nodes is not in a search space of 2 nodes"):
        SMALL.to_parameters(dml(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_1_2_gate": "throgh"}, "edge_1_2_gate=throgh is not allowed: did you mean 'through'"),
        ({"edge_1_3_gate": "through"}, "'edge_1_3_gate' is not in the search space: did you mean 'edge_1_2_gate'"),
    ],
)
def test_parameters_that_are_wrong_are_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        FULL.from_parameters({**FULL.to_parameters(dml(2)), **change})


def test_parameters_that_are_missing_are_named() -> None:
    parameters = FULL.to_parameters(dml(2))
    del parameters["label_2_gate"]
    with pytest.raises(GraphError, match="missing: label_2_gate"):
        FULL.from_parameters(parameters)


def test_admits_tells_rejected_graphs() -> None:
    cut = GraphSpec(label_gates=(Gate.CUTOFF, Gate.THROUGH), edges=independent(2).edges)
    assert FULL.admits(cut)
    assert not replace(FULL, reject_unlearned=True).admits(cut)


def test_space_that_cannot_be_is_refused() -> None:
    with pytest.raises(GraphError, match="0 nodes is not possible"):
        SearchSpace(num_nodes=0)
    with pytest.raises(GraphError, match=r"gates=\(none\) is not a search space"):
        SearchSpace(num_nodes=2, gates=())
    with pytest.raises(GraphError, match=r"designs=prob\+, prob\+ is not a search space"):
        SearchSpace(num_nodes=2, designs=(Design.PROB_CLOSER, Design.PROB_CLOSER))
    with pytest.raises(GraphError, match="is empty: every edge is cutoff"):
        SearchSpace(num_nodes=2, label_gates=(Gate.CUTOFF,), gates=(Gate.CUTOFF,), reject_unlearned=True)
    with pytest.raises(GraphError, match="is empty: every edge is cutoff"):
        SearchSpace(num_nodes=1, label_gates=(Gate.CUTOFF,), reject_unlearned=True)
    with pytest.raises(GraphError, match="slot -1 does not exist"):
        FULL.graph(0, -1)


def test_space_in_which_node_1_learns_has_every_such_graph_and_no_other() -> None:
    space = SearchSpace(num_nodes=2, designs=(Design.PROB_CLOSER,), node1_learns=True)
    # 3 label gates x 4 edge gates that train differently, 4 x 4 raw ones; without the one that teaches node 1 nothing.
    assert (space.num_canonical, space.num_raw) == (11 * 12, 15 * 16)
    drawn = [space.graph(7, slot) for slot in range(132)]
    assert len(set(drawn)) == 132
    assert not any(0 in graph.unlearned_nodes for graph in drawn)
    assert any(1 in graph.unlearned_nodes for graph in drawn)
    assert all(space.admits(graph) for graph in drawn)
    assert not space.admits(next(graph for graph in every_raw() if 0 in graph.unlearned_nodes))


def test_large_space_in_which_node_1_learns_draws_other_nodes_as_without_that() -> None:
    usual = SearchSpace(num_nodes=3, gates=(Gate.CUTOFF, Gate.THROUGH))
    space = replace(usual, node1_learns=True)
    assert space.num_canonical > 65_536
    differ = 0
    for slot in range(300):
        graph, before = space.graph(0, slot), usual.graph(0, slot)
        assert 0 not in graph.unlearned_nodes
        differ += graph != before
        assert (graph == before) == (0 not in before.unlearned_nodes)
    assert differ > 0
