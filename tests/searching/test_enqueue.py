"""``kdhpc enqueue``: what a study takes to compare with, and what it says of graphs that it cannot train."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.config.compose import compose_search
from kdhpc.errors import GraphError
from kdhpc.graph.plugins import load_plugins
from kdhpc.graph.presets import dml, independent, uniform
from kdhpc.graph.serial import write_graph
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import Design, Gate, GraphSpec
from kdhpc.searching.plan import study_definition
from kdhpc.study.given import GivenGraph, fitted
from kdhpc.study.study import SharedStudy
from tests.plugins import EXAMPLES, plugin_writer
from tests.study.made import SPLIT, make, scalar

Enqueue = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def enqueue(storage_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Enqueue:
    """The command, in a folder of its own: its exit code and what it says."""
    monkeypatch.setenv("KDHPC_STORAGE", storage_url)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, list[str]]:
        code = main(["enqueue", "--study", "tiny", *words])
        return code, capsys.readouterr().err.splitlines()

    return run


def cut(node: int) -> GraphSpec:
    """Two independent nodes, but one (from 0) learns nothing."""
    gates = [Gate.THROUGH, Gate.THROUGH]
    gates[node] = Gate.CUTOFF
    return dataclasses.replace(independent(2), label_gates=tuple(gates))


def test_graphs_that_the_study_leaves_out_are_refused_in_its_own_words(storage, enqueue: Enqueue) -> None:
    make(storage, space=SearchSpace(num_nodes=2, node1_learns=True))
    write_graph(Path("first.json"), cut(0))
    write_graph(Path("second.json"), cut(1))
    code, (said,) = enqueue("independent", "first.json")
    assert code != 0
    assert "in first, no edge teaches node 1, and node 1 of all graphs of the study learns" in said
    assert "(study.node1_learns=true): give another" in said
    assert "objective.unlearned" not in said
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots WHERE graph_key IS NOT NULL") == 0, "all or none"
    assert enqueue("second.json")[0] == 0


def test_graph_of_other_nodes_or_of_a_wrong_name_is_one_line_that_helps(storage, enqueue: Enqueue) -> None:
    make(storage)
    write_graph(Path("mine-3.json"), dml(3))
    Path("broken.json").write_text("{")
    Path("folder").mkdir()
    for word, told in (
        ("mine-3.json", "mine-3 has 3 nodes, the study's graphs have 2: give another"),
        ("mine3.json", "graph 'mine3.json' is neither a preset nor a file: did you mean 'mine-3.json'?"),
        ("indepndent", "graph 'indepndent' is neither a preset nor a file: did you mean 'independent'?"),
        ("uniform:atn+", "did you mean 'uniform:att+'?"),
        ("broken.json", "broken.json is not a JSON document"),
        ("folder", "folder cannot be read: Is a directory"),
    ):
        code, said = enqueue(word)
        assert (code != 0, len(said)) == (True, 1), said
        assert told in said[0]


def test_graph_that_is_given_twice_is_trained_once_and_each_name_is_told(storage, enqueue: Enqueue) -> None:
    make(storage)
    code, said = enqueue("dml", "uniform:prob+", "dml")
    assert code == 0
    assert said[:2] == [
        "study tiny: dml is given: trainings 1 to come",
        "study tiny: uniform:prob+, which is dml, is given: trainings 1 to come",
    ]
    assert said[2].startswith("study tiny: left to train outside the budget: 1; ")


def test_graph_of_a_plug_in_that_the_study_lacks_is_refused(
    storage, enqueue: Enqueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(storage)
    write_graph(Path("theirs.json"), dml(2))
    document = json.loads(Path("theirs.json").read_text())
    Path("theirs.json").write_text(json.dumps(document | {"plugins": {"my_plugin": "0123456789ab"}}))
    code, (said,) = enqueue("theirs.json")
    assert code != 0
    assert "needs plug-in my_plugin: the study's workers do not load it, give another graph, or make a study" in said
    # Also where this process happens to have it.
    source = (EXAMPLES / "own_designs.py").read_text()
    load_plugins([plugin_writer(tmp_path, monkeypatch)(source, "my_plugin")])
    design = next(design for design in Design if not design.is_built_in)
    own = GivenGraph(graph=uniform(2, design), name="own")
    with pytest.raises(GraphError, match=r"own has soft\S+ of a plug-in, which graphs of the study have not"):
        fitted(own, SearchSpace(num_nodes=2))
    assert fitted(own, SearchSpace(num_nodes=2, designs=(Design.PROB_CLOSER, design))) == own


def test_graph_with_networks_is_taken_where_the_study_has_them(storage) -> None:
    space, both = SearchSpace(num_nodes=2), ("resnet20", "resnet20")
    named = GivenGraph(graph=dataclasses.replace(dml(2), networks=both), name="mine")
    study = make(storage)
    study.give([named])
    assert [result.graph for result in study.given()] == [dml(2)], "it is what the study's graphs are"
    mixed = dataclasses.replace(named, graph=dataclasses.replace(dml(2), networks=("resnet20", "resnet32")))
    with pytest.raises(
        GraphError, match="the nodes of mine are resnet20, resnet32, and those of the study are resnet20:"
    ):
        study.give([mixed])
    chosen = dataclasses.replace(space, networks=("resnet32", "wrn16_2"))
    assert fitted(mixed, chosen, both) == mixed
    with pytest.raises(GraphError, match="those of the study are chosen from resnet20, resnet32, wrn16_2: give"):
        fitted(
            dataclasses.replace(mixed, graph=dataclasses.replace(dml(2), networks=("resnet8", "resnet20"))),
            chosen,
            both,
        )


def test_graph_that_compares_maps_is_refused_where_crops_do_not_fit(storage, enqueue: Enqueue) -> None:
    """A study of probability designs never looked at its maps."""
    words = ("study=quickstart", "dataset.image_size=16", "network.crops=[3,5,7]", "study.designs=[prob+]")
    definition = study_definition("tiny", compose_search(list(words)), "0123abcd")
    SharedStudy.create_or_open(storage, definition, SPLIT, target=2)
    assert enqueue("dml")[0] == 0
    code, (said,) = enqueue("uniform:att+")
    assert code != 0
    assert "uniform:att+ compares attention maps: network.crops=[3, 5, 7] does not fit" in said
