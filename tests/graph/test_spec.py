import pytest

from kdhpc.errors import GraphError
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec


def edge(source: int, target: int, gate: Gate = Gate.THROUGH) -> DistillationEdge:
    return DistillationEdge(source=source, target=target, design=Design.PROB_CLOSER, gate=gate)


def test_graph_with_edges_in_any_order_sorts_them() -> None:
    graph = GraphSpec(label_gates=(Gate.THROUGH, Gate.LINEAR), edges=(edge(1, 0), edge(0, 1)))
    assert [(e.source, e.target) for e in graph.edges] == [(0, 1), (1, 0)]
    assert graph.num_nodes == 2


@pytest.mark.parametrize(
    "edges", [(), (edge(0, 1),), (edge(0, 1), edge(0, 1)), (edge(0, 1), edge(1, 1)), (edge(0, 1), edge(1, 2))]
)
def test_graph_without_one_edge_for_each_pair_is_refused(edges: tuple[DistillationEdge, ...]) -> None:
    with pytest.raises(GraphError, match="exactly one edge for each ordered pair"):
        GraphSpec(label_gates=(Gate.THROUGH, Gate.THROUGH), edges=edges)


def test_graph_without_nodes_is_refused() -> None:
    with pytest.raises(GraphError, match="at least one node"):
        GraphSpec(label_gates=())


def test_unlearned_nodes_are_those_whose_incoming_edges_are_all_cutoff() -> None:
    graph = GraphSpec(label_gates=(Gate.CUTOFF, Gate.CUTOFF), edges=(edge(0, 1, Gate.LINEAR), edge(1, 0, Gate.CUTOFF)))
    assert graph.unlearned_nodes == (0,)
