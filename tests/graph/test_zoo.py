"""The zoo: every graph that ships can be trained by its name, and says where it comes from."""

from pathlib import Path

import pytest

import kdhpc
from kdhpc.errors import GraphError
from kdhpc.graph.presets import load_graph
from kdhpc.graph.serial import read_stored, to_json, write_graph
from kdhpc.graph.space import canonical
from kdhpc.graph.zoo import graph_path, zoo_names

NAMES = zoo_names()


def test_the_zoo_is_not_empty() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_graph_of_the_zoo_says_what_found_it_and_what_it_gained(name: str) -> None:
    stored = read_stored(graph_path(name))

    assert stored.graph == canonical(stored.graph)
    assert {"study", "trial", "value", "dataset", "network", "graph_key", "gained"} <= stored.provenance.keys()
    assert to_json(stored.graph, stored.provenance) == graph_path(name).read_text(encoding="utf-8")
    # No place on the machine that found it.
    assert [value for value in stored.provenance.values() if str(value).startswith("/")] == []


@pytest.mark.parametrize("name", NAMES)
def test_graph_of_the_zoo_is_loaded_by_its_name(name: str) -> None:
    graph = kdhpc.load_graph(name)

    assert graph.spec == load_graph(name)
    assert graph.name == name.removeprefix("zoo/")
    assert graph.provenance["gained"]


@pytest.mark.parametrize("asked", ["zoo/nosuch", "zoo/", "zoo/../presets"])
def test_what_the_zoo_has_not_is_told_with_what_it_has(asked: str) -> None:
    with pytest.raises(GraphError, match=f"graph '{asked}' is neither in the zoo nor a file: .*{NAMES[0]}"):
        load_graph(asked)


def test_a_file_of_ones_own_in_a_folder_of_that_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = load_graph("dml", 2)
    write_graph(Path("zoo/mine.json"), mine)

    assert load_graph("zoo/mine.json") == mine
