import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kdhpc.errors import GraphError, StorageError
from kdhpc.graph.presets import dml, independent
from kdhpc.graph.serial import from_json, parse_graph, read_graph, read_stored, to_document, to_json, write_graph
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from tests.faults import FaultyDisk
from tests.graph.every_graph import every_graph

TEXT = """{
  "format": "kdhpc-graph",
  "version": 1,
  "nodes": 2,
  "label_edges": [
    {"target": 1, "gate": "through"},
    {"target": 2, "gate": "linear"}
  ],
  "edges": [
    {"source": 1, "target": 2, "design": "prob-att-", "gate": "correct"}
  ],
  "provenance": {
    "study": "dogs2",
    "trial": 17,
    "value": 71.25
  }
}
"""
GRAPH = GraphSpec(
    label_gates=(Gate.THROUGH, Gate.LINEAR),
    edges=(
        DistillationEdge(source=0, target=1, design=Design.BOTH_APART, gate=Gate.CORRECT),
        DistillationEdge(source=1, target=0, design=Design.PROB_CLOSER, gate=Gate.CUTOFF),
    ),
)
PROVENANCE = {"study": "dogs2", "trial": 17, "value": 71.25}


def test_json_of_a_graph_is_written_one_line_an_edge() -> None:
    assert to_json(GRAPH, PROVENANCE) == TEXT
    assert json.loads(TEXT) == to_document(GRAPH, PROVENANCE)


def test_json_of_a_graph_without_provenance_leaves_it_out() -> None:
    assert "provenance" not in json.loads(to_json(dml(1)))


def test_json_of_a_graph_with_networks_names_them_and_gives_them_back() -> None:
    named = replace(GRAPH, networks=("resnet50", "timm/convnext_atto"))
    text = to_json(named, PROVENANCE)
    assert '\n  "networks": ["resnet50", "timm/convnext_atto"],\n' in text
    assert from_json(text, origin="best.json") == named


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        (["resnet50"], "networks: 1 are not allowed: one for each of the 2 nodes"),
        (["resnet50", 18], r"networks\[1\]: 18 is not allowed: must be a name"),
        (["resnet50", "a\nb"], r"networks\[1\]: .* must be a name"),
        ("resnet50", "networks: .* must be a list"),
    ],
)
def test_json_of_networks_that_cannot_be_is_refused(networks: object, said: str) -> None:
    document = {**json.loads(TEXT), "networks": networks}
    with pytest.raises(GraphError, match=said):
        from_json(json.dumps(document), origin="best.json")


def test_json_of_a_file_gives_graph_and_provenance() -> None:
    stored = parse_graph(TEXT, origin="best.json")
    assert stored.graph == GRAPH
    assert stored.provenance == PROVENANCE


def test_json_of_every_graph_and_back_gives_the_graph() -> None:
    for graph in every_graph(2):
        assert from_json(to_json(graph), origin="text") == graph
    for num_nodes in (1, 3, 5):
        for slot in range(20):
            graph = SearchSpace(num_nodes=num_nodes).graph(0, slot)
            assert from_json(to_json(graph), origin="text") == graph


def test_json_written_by_hand_may_leave_out_cutoff_edges_and_sort_as_it_likes() -> None:
    text = json.dumps(
        {
            "edges": [],
            "label_edges": [{"gate": "through", "target": 2}, {"gate": "through", "target": 1}],
            "nodes": 2,
            "version": 1,
            "format": "kdhpc-graph",
        }
    )
    assert from_json(text, origin="text") == independent(2)


BAD = [
    ('"version": 1', '"version": 2', "version: 2 is not known: this kdhpc reads version 1"),
    ('"version": 1', '"version": "1"', 'version: "1" is not allowed: must be an integer'),
    ('"version": 1,', "", "field 'version' is missing"),
    ('"kdhpc-graph"', '"other"', 'format: "other" is not allowed'),
    ('"nodes": 2', '"nodes": true', "nodes: true is not allowed: must be an integer"),
    ('"nodes": 2', '"nodes": 0', "nodes: 0 is not allowed: must be 1 or more"),
    ('"nodes": 2', '"nodes": 2.0', "nodes: 2.0 is not allowed: must be an integer"),
    ('"nodes": 2', '"nodes": 1', "label_edges[1].target: 2 is not allowed: must be 1 to 1"),
    ('"nodes": 2', '"nodes": 1000000000', "label_edges: the label edge of node 3 is missing"),
    ('"nodes": 2', '"node": 2', "unknown field 'node': did you mean 'nodes'"),
    ('"nodes": 2,', "", "field 'nodes' is missing"),
    ('"nodes": 2', '"nodes": 2, "nodes": 2', "field 'nodes' is there twice"),
    ('{"target": 2, "gate": "linear"}', '{"target": 1, "gate": "linear"}', "label_edges[1]: node 1 has a label edge"),
    ('{"target": 2, "gate": "linear"}', "7", "label_edges[1]: 7 is not allowed: must be an object"),
    ('"linear"', '"linaer"', "label_edges[1].gate: \"linaer\" is not allowed: did you mean 'linear'"),
    ('"linear"', "null", "label_edges[1].gate: null is not allowed: allowed: "),
    ('"source": 1', '"source": 2', "edges[0]: node 2 cannot teach itself"),
    ('"source": 1', '"source": 3', "edges[0].source: 3 is not allowed: must be 1 to 2"),
    ('"source": 1, ', "", "edges[0]: field 'source' is missing"),
    ('"prob-att-"', '"prob"', 'edges[0].design: "prob" is not allowed: did you mean \'prob'),
    ('"correct"}', '"correct", "weight": 1}', "edges[0]: unknown field 'weight'"),
    (
        '"correct"}',
        '"correct"}, {"source": 1, "target": 2, "design": "att+", "gate": "linear"}',
        "edges[1]: edge 1->2 is there twice",
    ),
    ('"trial": 17', '"trial": [17]', "provenance.trial: [17] is not allowed: must be a string or a number"),
    ('"trial": 17', '"trial": true', "provenance.trial: true is not allowed"),
    ('"trial": 17', '"trial": NaN', "NaN is not a JSON number"),
    ('"trial": 17', '"trial": 1e999', "provenance.trial: Infinity is not allowed: must be a finite number"),
    ('"edges": [', '"edges": 1, "rest": [', "unknown field 'rest'"),
    ('"format"', "format", "is not a JSON document"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new[:40] for _, new, _ in BAD])
def test_json_that_is_wrong_is_named_in_one_line(old: str, new: str, message: str) -> None:
    assert TEXT.count(old) >= 1
    with pytest.raises(GraphError) as caught:
        from_json(TEXT.replace(old, new, 1), origin="best.json")
    error = str(caught.value)
    assert error.startswith("best.json")
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, '{"nodes": ' + "1" * 10_000 + "}"])
def test_json_that_is_no_graph_at_all_is_refused(text: str) -> None:
    with pytest.raises(GraphError) as caught:
        from_json(text, origin="best.json")
    assert len(str(caught.value)) < 200


def test_file_written_and_read_gives_graph_and_provenance(tmp_path: Path) -> None:
    path = tmp_path / "export" / "best.json"
    write_graph(path, GRAPH, PROVENANCE)
    assert read_graph(path) == GRAPH
    assert read_stored(path).provenance == PROVENANCE
    assert [file.name for file in path.parent.iterdir()] == ["best.json"]


def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text(TEXT, encoding="utf-8-sig")
    assert read_graph(path) == GRAPH


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"none\.json cannot be read: No such file"):
        read_graph(tmp_path / "none.json")
    with pytest.raises(GraphError, match="cannot be read: Is a directory"):
        read_graph(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(GraphError, match=r"pipe\.json cannot be read: it is a named pipe and no regular file"):
        read_graph(tmp_path / "pipe.json")
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(GraphError, match=r"image\.json is not a JSON document: byte 0 is not UTF-8"):
        read_graph(tmp_path / "image.json")


def test_file_that_cannot_be_written_is_named_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError, match="taken cannot be written"):
        write_graph(tmp_path / "taken", GRAPH)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StorageError, match="file cannot be made: it, or a part of its path, is a file and no folder"):
        write_graph(tmp_path / "file" / "best.json", GRAPH)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_file_on_a_disk_that_fails_is_old_or_new_and_read_again(disk: FaultyDisk) -> None:
    path = disk.path / "best.json"
    write_graph(path, GRAPH)
    disk.rules("flush * late=EDQUOT")
    with pytest.raises(StorageError, match=r"best\.json cannot be written: Disk quota exceeded"):
        write_graph(path, dml(2))
    disk.rules("open * err=ESTALE 1")
    assert read_graph(path) == GRAPH
    disk.rules("open * err=EACCES")
    with pytest.raises(StorageError, match=r"best\.json cannot be read: Permission denied"):
        read_graph(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None, [1]])
def test_provenance_that_json_cannot_hold_is_refused_and_the_old_file_kept(tmp_path: Path, value: object) -> None:
    path = tmp_path / "best.json"
    write_graph(path, GRAPH)
    with pytest.raises(GraphError, match=r"provenance\.value: .* is not allowed"):
        write_graph(path, dml(2), {"value": value})  # type: ignore[dict-item]
    assert read_graph(path) == GRAPH


def test_json_of_thousands_of_nodes_is_refused_before_its_edges_are_made() -> None:
    labels = [{"target": node, "gate": "through"} for node in range(1, 3001)]
    document = {"format": "kdhpc-graph", "version": 1, "nodes": 3000, "label_edges": labels, "edges": []}
    with pytest.raises(GraphError, match="nodes: 3000 is not allowed: at most 256"):
        from_json(json.dumps(document), origin="best.json")
    with pytest.raises(GraphError, match="a graph of 3000 nodes is not possible: allowed are 1 to 256"):
        dml(3000)


def test_json_of_a_long_provenance_is_read_in_linear_time() -> None:
    """20,000 names; each was once compared with all others, for half a minute."""
    provenance = {f"config.key{number}": number for number in range(20_000)}
    text = to_json(independent(2), provenance)
    begin = time.process_time()
    assert parse_graph(text, origin="best.json").provenance == provenance
    assert time.process_time() - begin < 2
    with pytest.raises(GraphError, match=r"field 'config\.key19999' is there twice"):
        parse_graph(text.replace('"config.key0"', '"config.key19999"'), origin="best.json")
