"""Final trainings with a network for each node: configs, files, results, and what goes on from them."""

import json
from dataclasses import replace

import pytest
import torch

import kdhpc
from kdhpc.config.compose import compose_train
from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, KdhpcError
from kdhpc.final.finished import open_finished
from kdhpc.final.result import read_result
from kdhpc.final.summary import summarise
from kdhpc.graph.presets import uniform
from kdhpc.graph.serial import read_stored, write_graph
from kdhpc.graph.spec import Design
from tests.final.conftest import Place
from tests.final.test_final import StopAfter, same, train, weights_of

MIXED = ("network=[abn_resnet8,resnet14]", "network.crops=[3]")
BOTH = ("run.graph=uniform:prob-att-", "run.num_nodes=2")


def config(place: Place, *overrides: str):
    return compose_train(["dataset=tiny", "training=tiny", "device.threads=1", *overrides])


def test_train_final_of_different_networks_names_them_everywhere(place):
    """Maps of 8 and of 4 pixels. Stopped on its way, it ends with the same bits; then it teaches a student."""
    whole, _ = train(config(place, *BOTH, *MIXED))
    name = "tiny-abn_resnet8+resnet14-uniform2-prob-att-"
    paths = RunPaths.of(name, 0)
    assert (whole.name, whole.network, whole.networks) == (name, "abn_resnet8+resnet14", ("abn_resnet8", "resnet14"))
    assert read_result(paths.result) == whole
    assert summarise([whole])[0].network == "abn_resnet8+resnet14"
    assert json.loads(paths.settings.read_text())["network.nodes"] == ["abn_resnet8", "resnet14"]
    graph = read_stored(paths.graph).graph
    assert graph == replace(uniform(2, Design.BOTH_APART), networks=("abn_resnet8", "resnet14"))
    assert "head.attention_fc.weight" in weights_of(name)
    assert "head.attention_fc.weight" not in weights_of(name, node=1)

    while train(config(place, *BOTH, *MIXED, "run.name=pieces"), stop=StopAfter(3))[0] is None:
        pass
    assert all(same(weights_of("pieces", node=node), weights_of(name, node=node)) for node in (0, 1))

    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    ensemble = kdhpc.load(paths.root)
    assert ensemble.predict(images).shape == (3, 2)
    maps = ensemble.attention(images)
    assert maps.shape == (3, 2, 8, 8)
    with torch.no_grad():
        batch = torch.cat(list(ensemble.preprocessing(images)))
        assert ensemble.nodes[1](batch).attention_map.shape == (3, 4, 4)

    taught, _ = train(config(place, "run.graph=student", f"run.teacher={paths.root}", "network=resnet8", MIXED[1]))
    assert (taught.network, taught.networks, taught.teacher) == ("resnet8", (), f"{name}-seed0")
    settings = json.loads(RunPaths.of(taught.name, 0).settings.read_text())
    assert settings["teacher.network"] == "abn_resnet8+resnet14"


@pytest.mark.parametrize(
    ("names", "graph", "name"),
    [
        (
            ("tests.networks.toys:Small", "resnet8"),
            "'uniform:prob-att-'",
            "tiny-tests.networks.toys-Small+resnet8-uniform2-prob-att-",
        ),
        (("resnet8", "torchvision/mobilenet_v3_small"), "dml", "tiny-resnet8+torchvision-mobilenet_v3_small-dml2"),
    ],
)
def test_train_final_mixes_networks_of_kdhpc_and_others(place, names, graph, name):
    """Maps of 8 and of 4 pixels; and a network without a map, which a graph without attention designs takes."""
    given = (f"run.graph={graph}", "run.num_nodes=2", f"network=[{','.join(names)}]", "training.epochs=1")
    composed = config(place, *given)
    assert composed.network.nodes == names
    assert composed.network.crops is None
    result, _ = train(composed)
    assert (result.name, result.networks) == (name, names)
    finished = open_finished(RunPaths.of(name, 0).root)
    images = torch.rand(3, 3, 16, 16)
    for node in range(2):
        assert finished.network(node, 2, torch.device("cpu"))(images).logits.shape == (3, 2)


def test_train_final_graph_file_says_the_networks(place):
    path = place.folder / "mixed.json"
    write_graph(path, replace(uniform(2, Design.PROB_CLOSER), networks=("resnet14", "resnet8")), {"study": "mine"})
    written = ("run.graph=mixed.json", "network.crops=[3]")
    result, _ = train(config(place, *written))
    assert (result.name, result.networks) == ("tiny-resnet14+resnet8-mixed", ("resnet14", "resnet8"))
    # The same in the order of the command line: nothing is trained again.
    assert train(config(place, *written, "network=[resnet14,resnet8]"))[0] == result
    for other in ("resnet8", "[resnet8,resnet14]"):
        with pytest.raises(ConfigError, match=r"mixed\.json has the networks resnet14, resnet8, network=.* leave"):
            train(config(place, *written, f"network={other}"))


def test_train_final_list_of_equal_names_is_one_name(place):
    one, _ = train(place.config("run.graph=dml", "run.num_nodes=2"))
    listed = place.config("run.graph=dml", "run.num_nodes=2", "network=[tiny,tiny]")
    assert train(listed)[0] == one  # It is done already.
    assert "networks" not in json.loads(RunPaths.of(one.name, 0).result.read_text())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["network=[tiny]"],
            r"network=\[resnet8\] is a list of 1, the nodes of dml are 2: give a network for each node",
        ),
        (["network=[tiny,tiny,resnet14]"], "is a list of 3, the nodes of dml are 2"),
        (["network=[]"], r"network=\[\] is not allowed: a list has the name of a network for each node"),
        (["network=[tiny,[tiny]]"], "a list has the name of a network for each node"),
        (["network=[tiny,resnet9]"], "unknown network 'resnet9': did you mean"),
        (
            ["network=[tiny,resnet50]", "run.graph='uniform:att+'"],
            r"the largest crop is 3x3, the attention map of resnet50 .* is 1x1",
        ),
        (["network=[tiny,resnet14]", "network.residual_attention=true"], "has no meaning for resnet8, resnet14"),
        (["network=tiny", "network.nodes=[resnet8,resnet14]"], "chosen with the name, as network="),
        (["network=[tiny,resnet14]", "run.graph=one"], "is not allowed for run.graph=one, which takes one network"),
        (["network=tiny", "dataset=[tiny,tiny]"], r"dataset=\[tiny,tiny\] is not allowed: give one"),
        (["network=tiny", "training=[tiny,tiny]"], r"training=\[tiny,tiny\] is not allowed: give one"),
        (["network=tiny", "training.epochs=[1,2]"], r"training\.epochs=\[1, 2\] is not allowed: a whole number"),
        (["network=tiny", "network.name=[resnet8,resnet14]"], r"network\.name=.* is not allowed: text"),
        (["network=tiny", "run.graph=[dml,independent]"], r"run\.graph=.* is not allowed: text"),
    ],
)
def test_train_final_lists_that_cannot_be_meant_are_refused(place, overrides, said):
    with pytest.raises(KdhpcError, match=said):
        train(config(place, "run.graph=dml", "run.num_nodes=2", *overrides))
    assert not place.runs.exists()
