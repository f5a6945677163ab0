import re
from pathlib import Path

import pytest

from kdhpc.errors import GraphError
from kdhpc.graph.presets import PRESETS, dml, independent, load_graph, uniform
from kdhpc.graph.serial import write_graph
from kdhpc.graph.space import canonical
from kdhpc.graph.spec import Design, Gate


@pytest.mark.parametrize("num_nodes", [1, 2, 5])
def test_independent_learns_from_labels_alone(num_nodes: int) -> None:
    graph = independent(num_nodes)
    assert graph.label_gates == (Gate.THROUGH,) * num_nodes
    assert len(graph.edges) == num_nodes * (num_nodes - 1)
    assert all(edge.gate is Gate.CUTOFF for edge in graph.edges)
    assert canonical(graph) == graph


@pytest.mark.parametrize("num_nodes", [1, 2, 5])
def test_dml_brings_all_probabilities_closer(num_nodes: int) -> None:
    graph = dml(num_nodes)
    assert graph.label_gates == (Gate.THROUGH,) * num_nodes
    assert len(graph.edges) == num_nodes * (num_nodes - 1)
    assert all((edge.design, edge.gate) == (Design.PROB_CLOSER, Gate.THROUGH) for edge in graph.edges)


@pytest.mark.parametrize("design", list(Design))
def test_uniform_has_one_design_on_every_edge(design: Design) -> None:
    graph = load_graph(f"uniform:{design.value}", 3)
    assert graph == uniform(3, design)
    assert graph.label_gates == (Gate.THROUGH,) * 3
    assert len(graph.edges) == 6
    assert all((edge.design, edge.gate) == (design, Gate.THROUGH) for edge in graph.edges)


def test_dml_is_uniform() -> None:
    assert dml(4) == uniform(4, Design.PROB_CLOSER)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_without_nodes_is_refused(name: str) -> None:
    with pytest.raises(GraphError, match="graph of 0 nodes"):
        PRESETS[name](0)
    with pytest.raises(GraphError, match=re.escape(f"preset '{name}' needs a number of nodes")):
        load_graph(name, None)


def test_load_graph_of_a_name_makes_the_preset() -> None:
    assert load_graph("dml", 3) == dml(3)
    assert load_graph("independent", 1) == independent(1)


def test_load_graph_of_a_path_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    write_graph(path, dml(3))
    assert load_graph(str(path), None) == load_graph(str(path), 3) == dml(3)


def test_load_graph_of_a_path_with_other_nodes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    write_graph(path, dml(3))
    with pytest.raises(GraphError, match=r"best\.json has 3 nodes, asked for were 2"):
        load_graph(str(path), 2)


def test_load_graph_of_an_unknown_name_says_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraphError, match="'independant' is neither a preset nor a file: did you mean 'independent'"):
        load_graph("independant", 2)


def test_load_graph_of_a_file_called_as_a_preset_needs_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_graph(Path("dml"), independent(2))
    assert load_graph("dml", 2) == dml(2)
    assert load_graph("./dml", 2) == independent(2)
