"""The search space of knowledge transfer graphs as a study, with images so small that it takes seconds."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kdhpc.config.compose import compose_search
from kdhpc.config.schema import ObjectiveConfig
from kdhpc.errors import ConfigError
from kdhpc.graph.spec import Design
from kdhpc.searching.plan import search_space, space_compares_maps, study_definition
from kdhpc.searching.trial import goal_value
from kdhpc.study.definition import from_json, to_json
from kdhpc.training.loop import EpochReport

SMALL = (
    *("dataset=fashion_mnist", "dataset.name=tiny", "dataset.image_size=16", "dataset.validation_fraction=0.5"),
    *("network=resnet8", "network.crops=[3]", "training=short", "training.epochs=1", "training.batch_size=16"),
    "device.threads=1",
)


@pytest.mark.parametrize(("study", "nodes", "num_graphs"), [("ktg2", 2, 132), ("ktg3", 3, 47 * 48**2)])
def test_shipped_studies_of_transfer_graphs_have_their_space(study: str, nodes: int, num_graphs: int) -> None:
    config = compose_search([f"study={study}"])
    space = search_space(config)
    assert (space.num_nodes, space.num_canonical, config.study.goal) == (nodes, num_graphs, "node1")
    assert set(config.objective.pretrained) == {config.network.name, *config.study.networks}
    assert all(name in path for name, path in config.objective.pretrained.items())
    assert config.objective.unlearned_norm == "batch"
    assert space_compares_maps(config) is False


def test_ktg3_draws_what_the_other_nodes_are_and_never_a_node_1_that_learns_nothing() -> None:
    config = compose_search(["study=ktg3"])
    space = search_space(config)
    assert [list(parameter.choices) for parameter in space.parameters()[-3:]] == [
        ["resnet32"],
        ["resnet110", "resnet32", "wrn28_2"],
        ["resnet110", "resnet32", "wrn28_2"],
    ]
    graphs = [space.graph(0, slot) for slot in range(300)]
    assert {graph.networks[0] for graph in graphs} == {"resnet32"}
    assert len({graph.networks for graph in graphs}) == 9
    assert not any(0 in graph.unlearned_nodes for graph in graphs)
    assert all(edge.design is Design.PROB_CLOSER for graph in graphs for edge in graph.edges)
    definition = study_definition("k", replace(config, objective=ObjectiveConfig()), "0")
    assert from_json(to_json(definition), name="k").space == space
    free = compose_search(["study=ktg3", "study.node1_network=null"])
    assert [graph.networks[1:] for graph in graphs] == [
        search_space(free).graph(0, slot).networks[1:] for slot in range(300)
    ]
    with pytest.raises(ConfigError, match=r"study\.node1_network=resnet8 has no meaning without study\.networks"):
        compose_search(["study=ktg2", "study.node1_network=resnet8"])


def test_pretrained_files_are_those_of_the_networks_that_are_used() -> None:
    other = ("study=ktg2", "network=resnet8")
    with pytest.raises(ConfigError, match=r"no file for network resnet8 .*--nodes 1 network=resnet8"):
        compose_search(other)
    for more in ("objective.pretrained.resnet8=w", "objective.pretrained={resnet8: w}"):
        (name,) = compose_search([*other, more]).objective.pretrained
        assert name == "resnet8"


def test_goals_are_read_from_an_epochs_report() -> None:
    report = SimpleNamespace(node_accuracies=(60.0, 40.0), ensemble_accuracy=70.0, ensemble_nll=1.5)
    values = {goal: goal_value(report, goal) for goal in ("ensemble", "node1", "mean_node", "nll")}
    assert values == {"ensemble": 70.0, "node1": 60.0, "mean_node": 50.0, "nll": 1.5}
    none = EpochReport(
        epoch=1, step=1, rung=True, train_losses=(), node_accuracies=None, ensemble_accuracy=None, seconds=1.0
    )
    assert goal_value(none, "node1") is None


def test_search_of_transfer_graphs_goes_from_the_pretrained_teacher_to_the_best_graph(workspace) -> None:
    taught = workspace.run("train", "--graph", "independent", "--nodes", "1", "run.split=search", "run.name=t", *SMALL)
    assert taught.returncode == 0, taught.stderr
    weights = workspace.runs / "train" / "t" / "seed0" / "node1.safetensors"
    command = ("search", "--study", "k", "study=ktg2", "--trials", "4", *SMALL, "study.sampler=refine")
    missing = workspace.run(*command, "objective.pretrained.resnet8=nowhere")
    assert missing.returncode == 2
    assert "objective.pretrained.resnet8=" in missing.stderr
    assert "train --graph independent" in missing.stderr
    done = workspace.run(*command, f"objective.pretrained.resnet8={weights}")
    assert done.returncode == 0, done.stderr
    assert ", best node 1 " in done.stderr
    assert workspace.run("export-best", "--study", "k").returncode == 0
    exported = json.loads((workspace.runs / "k" / "export" / "k-best.json").read_text())
    best = workspace.status("k")["best"]
    said = exported["provenance"]
    assert (said["goal"], said["value"], said["trial"]) == ("node1", best["value"], best["number"])
    shown = workspace.run("status", "--study", "k").stdout
    assert "goal     accuracy of node 1, higher is better" in shown
    # The graph is trained on all images, and its node 1 teaches a student.
    frozen = (f"objective.pretrained.resnet8={weights}", "objective.unlearned=pretrained")
    graph = workspace.runs / "k" / "export" / "k-best.json"
    final = workspace.run("train", "--graph", str(graph), "run.name=final", *SMALL, *frozen)
    assert final.returncode == 0, final.stderr
    teacher = workspace.runs / "train" / "final" / "seed0"
    taught = workspace.run(
        "train", "--graph", "student", "--teacher", str(teacher), "--teacher-node", "1", "run.name=pupil", *SMALL
    )
    assert taught.returncode == 0, taught.stderr
    result = json.loads((workspace.runs / "train" / "pupil" / "seed0" / "result.json").read_text())
    node1 = json.loads((teacher / "result.json").read_text())["node_accuracies"][0]
    assert result["teacher_accuracy"] == node1
    # What trials came to is node 1's accuracy, and the study can go on without a config, for as long as it may.
    metrics = workspace.runs / "k" / "trials" / str(best["number"]) / "metrics.jsonl"
    assert json.loads(metrics.read_text().splitlines()[-1])["node_accuracies"][0] == best["value"]
    again = workspace.run("search", "--study", "k", "--trials", "9", "study.max_gpu_hours=1e-6")
    assert again.returncode == 0, again.stderr
    status = workspace.status("k")
    assert (status["trials"]["beyond_hours"], status["max_gpu_hours"]) == (5, 1e-6)
    assert "of 1e-06 hours (study.max_gpu_hours), 5 trials not begun" in again.stderr
