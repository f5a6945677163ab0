from functools import cache
from itertools import combinations

import pytest

from kdhpc.graph.catalogue import APART, design_entry
from kdhpc.graph.layout import ENSEMBLE_RADIUS, NODE_RADIUS, Arrow, Layout, lay_out
from kdhpc.graph.presets import dml, independent
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec


def widest(num_nodes: int) -> GraphSpec:
    """Every edge there, with the longest texts."""
    edges = [
        DistillationEdge(source=edge.source, target=edge.target, design=Design.BOTH_APART, gate=Gate.THROUGH)
        for edge in dml(num_nodes).edges
    ]
    return GraphSpec(label_gates=dml(num_nodes).label_gates, edges=tuple(edges))


GRAPHS = [
    *(preset(num_nodes) for num_nodes in range(1, 6) for preset in (dml, independent, widest)),
    *(SearchSpace(num_nodes=num_nodes).graph(0, slot) for num_nodes in range(1, 6) for slot in range(6)),
]


@cache
def _laid_out(graph: GraphSpec) -> Layout:
    return lay_out(graph)


def _circles(layout: Layout) -> list[tuple[complex, float]]:
    return [*((node, NODE_RADIUS) for node in layout.nodes), (layout.ensemble, ENSEMBLE_RADIUS)]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: f"M{graph.num_nodes}")
def test_layout_lets_no_texts_and_nodes_overlap(graph: GraphSpec) -> None:
    layout = _laid_out(graph)
    texts = [*(arrow.tag for arrow in layout.arrows), layout.label]
    assert all(a.overlap(b) == 0 for a, b in combinations(texts, 2))
    assert all(box.distance(middle) > radius for box in texts for middle, radius in _circles(layout))
    assert all(abs(a - b) > radius_a + radius_b for (a, radius_a), (b, radius_b) in combinations(_circles(layout), 2))


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: f"M{graph.num_nodes}")
def test_layout_runs_no_arrow_through_a_node(graph: GraphSpec) -> None:
    layout = _laid_out(graph)
    for arrow in layout.arrows:
        points = [arrow.curve.at(n / 100) for n in range(101)]
        assert all(abs(point - middle) > radius - 0.01 for point in points for middle, radius in _circles(layout))


def _ends(layout: Layout, arrow: Arrow) -> tuple[int, int]:
    start, end = (
        min(range(len(layout.nodes)), key=lambda node: abs(layout.nodes[node] - point))
        for point in (arrow.curve.start, arrow.curve.end)
    )
    return start, end


def test_layout_draws_each_edge_that_is_not_cut_off_from_source_to_target() -> None:
    graph = SearchSpace(num_nodes=5).graph(3, 1)
    layout = _laid_out(graph)
    labels = [arrow for arrow in layout.arrows if arrow.design is None]
    edges = [arrow for arrow in layout.arrows if arrow.design is not None]
    assert all(layout.label.distance(arrow.curve.start) < 0.01 for arrow in labels)
    assert [(_ends(layout, arrow)[1], arrow.lines) for arrow in labels] == [
        (node, (gate.value,)) for node, gate in enumerate(graph.label_gates) if gate is not Gate.CUTOFF
    ]
    assert [(*_ends(layout, arrow), arrow.lines, design_entry(arrow.design).meaning == APART) for arrow in edges] == [
        (edge.source, edge.target, (edge.design.value, edge.gate.value), "-" in edge.design.value)
        for edge in graph.edges
        if edge.gate is not Gate.CUTOFF
    ]
    assert len(edges) < len(graph.edges)


def test_layout_parts_opposite_edges() -> None:
    layout = lay_out(dml(5))
    edges = {_ends(layout, arrow): arrow.curve for arrow in layout.arrows if arrow.design is not None}
    assert len(edges) == 20
    assert all(abs(curve.at(0.5) - edges[target, source].at(0.5)) > 25 for (source, target), curve in edges.items())


def test_layout_of_the_same_graph_is_the_same() -> None:
    assert lay_out(widest(4)) == lay_out(widest(4))


def test_layout_frame_holds_everything() -> None:
    layout = lay_out(widest(5))
    low, high = layout.frame.corners
    for box in (layout.label, *(arrow.tag for arrow in layout.arrows)):
        assert low.real <= box.corners[0].real + 1e-9
        assert high.real >= box.corners[1].real - 1e-9
        assert low.imag <= box.corners[0].imag + 1e-9
        assert high.imag >= box.corners[1].imag - 1e-9
