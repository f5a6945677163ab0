"""Lists of networks: on the command line, in files, in sweeps, and from the file of a graph."""

from dataclasses import replace

import pytest

from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.schema import NetworkConfig
from kdhpc.config.sweep import combinations, launch_sweep
from kdhpc.errors import ConfigError
from kdhpc.graph.presets import dml
from kdhpc.graph.serial import write_graph

_TRAIN = ("dataset=cub200", "run.num_nodes=2", "run.graph=dml")


def test_list_takes_the_crops_that_reach_least_far_unless_some_are_given():
    mixed = compose_train([*_TRAIN, "network=[abn_resnet18,resnet18]"]).network
    assert mixed == NetworkConfig(name="abn_resnet18+resnet18", nodes=("abn_resnet18", "resnet18"), crops=(3, 5, 7))
    given = compose_train([*_TRAIN, "network=[abn_resnet18,resnet18]", "network.crops=[5]"]).network
    assert given == replace(mixed, crops=(5,))


def test_list_of_names_that_stand_for_files_of_the_users(tmp_path):
    """Also in a study's list of defaults, which an override goes before; equal names are one."""
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "mine.yaml").write_text("name: abn_resnet8\ncrops: [3]\nresidual_attention: false\n")
    (tmp_path / "network" / "other.yaml").write_text("name: abn_resnet14\ncrops: [3]\nresidual_attention: true\n")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mixed.yaml").write_text(
        "# @package _global_\ndefaults:\n- override /dataset: fashion_mnist\n- override /network: [mine, resnet8]\n"
        "study:\n  num_nodes: 2\n  trials: 1\n"
    )
    found = compose_search(["study=mixed"], config_dir=tmp_path).network
    assert found.nodes == ("abn_resnet8", "resnet8")
    assert (found.crops, found.residual_attention) == ((3,), False)
    again = compose_search(["study=mixed", "network=[resnet8,resnet8]"], config_dir=tmp_path).network
    assert (again.name, again.nodes) == ("resnet8", ())
    with pytest.raises(ConfigError, match=r"different options network\.residual_attention \(False, True\)"):
        compose_search(["study=mixed", "network=[mine,other]"], config_dir=tmp_path)


def test_list_in_a_sweep_is_one_choice(tmp_path):
    words = [*_TRAIN, "network=[resnet8,resnet14],resnet20", "training.epochs=1,2"]
    here = [compose_train(choice).network.name for choice in combinations(words)]
    assert here == ["resnet8+resnet14", "resnet8+resnet14", "resnet20", "resnet20"]
    jobs = launch_sweep(
        lambda config, number: f"{config.network.name} {config.training.epochs} {number}",
        [*words, "training.milestones=[]"],
        launcher="basic",
        at_once=None,
        folder=tmp_path,
        config_dir=None,
    )
    assert jobs == ("resnet8+resnet14 1 0", "resnet8+resnet14 2 1", "resnet20 1 2", "resnet20 2 3")


def test_networks_of_a_graphs_file_are_chosen_unless_others_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_graph(tmp_path / "it's mixed.json", replace(dml(2), networks=("resnet8", "resnet14")))
    words = ["run.graph='it\\'s mixed.json'", "dataset=cub200"]
    assert compose_train(words).network.nodes == ("resnet8", "resnet14")
    assert compose_train([*words, "network=resnet20"]).network.name == "resnet20"
    jobs = launch_sweep(
        lambda config, number: config.network.name,
        words,
        launcher="basic",
        at_once=None,
        folder=tmp_path / "sweep",
        config_dir=None,
    )
    assert jobs == ("resnet8+resnet14",)
    with pytest.raises(ConfigError, match="no network chosen: add network=NAME"):
        compose_train(["run.graph=dml", "dataset=cub200"])
