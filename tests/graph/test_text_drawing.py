"""Graphs drawn in text."""

from dataclasses import replace

import pytest

from kdhpc.graph.presets import load_graph
from kdhpc.graph.space import SearchSpace, edge_of
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.graph.text_drawing import draw_in_text


def three_nodes(networks: tuple[str, ...] = ()) -> GraphSpec:
    taught = {
        (0, 2): DistillationEdge(source=0, target=2, design=Design.BOTH_APART, gate=Gate.CORRECT),
        (1, 0): DistillationEdge(source=1, target=0, design=Design.PROB_CLOSER, gate=Gate.THROUGH),
    }
    pairs = [(s, t) for s in range(3) for t in range(3) if s != t]
    return GraphSpec(
        label_gates=(Gate.THROUGH, Gate.CUTOFF, Gate.LINEAR),
        edges=tuple(taught.get(pair, edge_of(*pair)) for pair in pairs),
        networks=networks,
    )


def test_drawing_has_a_column_for_each_node_and_a_line_for_each_edge() -> None:
    drawn = draw_in_text(three_nodes(("resnet8", "resnet8", "wrn28_2")), width=80)
    assert drawn == (
        "                         1          2          3",
        "                      resnet8    resnet8    wrn28_2",
        "labels                through   untrained   linear",
        "                         │          │          │",
        "prob-att-  correct       ├──────────┼─────────▶│",
        "prob+      through       │◀─────────┤          │",
        "                         └──────────┴──────────┘",
        "                                ensemble",
        "4 of 6 edges between nodes are cut off",
    )


def test_drawing_in_ascii_has_no_other_characters() -> None:
    drawn = "\n".join(draw_in_text(three_nodes(), width=80, is_ascii=True))
    assert drawn.isascii()
    assert "+----------|--------->|" in drawn


def test_networks_are_named_only_where_they_differ() -> None:
    assert "resnet8" not in "\n".join(draw_in_text(three_nodes(("resnet8",) * 3), width=80))


def test_names_without_room_stand_below() -> None:
    long = "torchvision/efficientnet_v2_s"
    drawn = draw_in_text(three_nodes(("resnet8", "resnet8", long)), width=80)
    assert max(map(len, drawn)) <= 80
    assert f"networks 1 resnet8, 2 resnet8, 3 {long}" in drawn


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4, 5, 6, 9])
def test_drawing_fits_and_names_every_edge(num_nodes: int, width: int) -> None:
    graph = SearchSpace(num_nodes=num_nodes).graph(1, 5)
    drawn = draw_in_text(graph, width=width)
    assert max(map(len, drawn)) <= width
    edges = [edge for edge in graph.edges if edge.gate is not Gate.CUTOFF]
    arrows = [line for line in drawn if "▶" in line or "◀" in line]
    is_list = num_nodes > 5 or (width == 40 and num_nodes > 2)
    assert len(arrows) == (0 if is_list else len(edges))
    if is_list:
        text = " ".join(" ".join(drawn).split())
        for node in range(num_nodes):
            own = text.partition(f"node {node + 1} learns from ")[2].partition(" node ")[0]
            for edge in (edge for edge in edges if edge.target == node):
                assert f"{edge.source + 1} ({edge.design.value} {edge.gate.value})" in own


def test_list_names_networks_and_who_learns_from_nobody() -> None:
    graph = replace(load_graph("independent", 6), networks=("resnet8",) * 5 + ("wrn28_2",))
    graph = replace(graph, label_gates=(*graph.label_gates[:5], Gate.CUTOFF))
    drawn = draw_in_text(graph, width=80)
    assert "node 1 (resnet8) learns from labels (through)" in drawn
    assert "node 6 (wrn28_2) learns from nobody" in drawn
