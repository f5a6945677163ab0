"""Modules of users' own as the networks of nodes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import kdhpc
from kdhpc.api.networks import choose_importable, choose_network
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.networks.own import OWN_NETWORKS, OwnNetworks
from tests.api.conftest import make_images

_ATTENTION = kdhpc.load_graph("uniform:att-", 2)
_SETTINGS = {"epochs": 1, "batch_size": 16, "device": "cpu", "learning_rate": 0.05}


class Small(nn.Module):
    """Two layers that make maps of half the images' side, and a classifier."""

    def __init__(self, width: int = 8, stride: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=stride, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.stem(images)).flatten(1))


class Other(Small):
    """Other layers, and maps of another size."""

    def __init__(self) -> None:
        super().__init__(width=6, stride=4)
        self.more = nn.BatchNorm1d(6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.more(self.pool(self.stem(images)).flatten(1)))


class NoMap(nn.Sequential):
    """Sees the mean colour alone."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


def _forget() -> None:
    OWN_NETWORKS.clear()


def test_own_network_learns_and_is_loaded_again(folder: Path) -> None:
    data = make_images(64)
    run = kdhpc.train(_ATTENTION, dataset=data, network=Small, **_SETTINGS)
    here = kdhpc.load(run)
    maps, probabilities = here.attention(data[0][:4]), here.predict(data[0][:4])
    assert maps.shape == (4, 2, 8, 8)
    assert not torch.equal(here.nodes[0].module.fc.weight, here.nodes[1].module.fc.weight)
    module = Small()
    module.load_state_dict(load_file(run.folder / "node1.safetensors"))
    _forget()
    with pytest.raises(NetworkError, match="which this process does not know: give network=, as to kdhpc"):
        kdhpc.load(run.folder)
    there = kdhpc.load(run.folder, network=Small)
    torch.testing.assert_close(there.predict(data[0][:4]), probabilities)
    with pytest.raises(NetworkError, match="give weights of the same network"):
        kdhpc.load(run.folder, network=lambda: Small(width=9))


def test_list_of_modules_is_copied_and_nodes_may_differ(folder: Path) -> None:
    data = make_images(64)
    modules = [Small(), Other()]
    before = [module.fc.weight.clone() for module in modules]
    run = kdhpc.train(_ATTENTION, dataset=data, network=modules, **_SETTINGS)
    assert all(torch.equal(module.fc.weight, weight) for module, weight in zip(modules, before, strict=True))
    ensemble = kdhpc.load(run)
    assert [type(node.module) for node in ensemble.nodes] == [Small, Other]
    maps = ensemble.attention(data[0][:3])
    assert maps.shape == (3, 2, 8, 8)
    with torch.no_grad():
        small = ensemble.nodes[1](data[0][:3] / 255).attention_map
    expected = nn.functional.interpolate(small[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(maps[:, 1], expected)


def test_network_without_maps_learns_from_probabilities(folder: Path) -> None:
    data = make_images(64)
    run = kdhpc.train(kdhpc.dml(2), dataset=data, network=[NoMap(), NoMap()], **{**_SETTINGS, "epochs": 2})
    ensemble = kdhpc.load(run)
    assert ensemble.predict(data[0]).shape == (64, 2)
    with pytest.raises(NetworkError, match="node 1 makes no attention map"):
        ensemble.attention(data[0])


def test_same_call_is_not_repeated_and_other_code_is_another_run(folder: Path) -> None:
    data = make_images(40)
    runs = [kdhpc.train(kdhpc.dml(1), dataset=data, network=network, **_SETTINGS) for network in (NoMap, NoMap, Small)]
    assert runs[0] == runs[1]
    assert runs[0].folder != runs[2].folder
    first, second, other = (choose_network(network).name for network in (Small, Small, lambda: Small(width=9)))
    assert first == second
    assert first.startswith("Small-")
    assert other.startswith("network-")
    given = Small()
    names_of_lists = {choose_network([module]).name for module in (given, given, Small())}
    assert len(names_of_lists) == 2


def test_dry_run_finds_the_last_map() -> None:
    own = OwnNetworks([Small], label="Small")
    assert (own.probe(0, 16).layer, own.map_side(16), own.map_side(32)) == ("stem", 8, 16)
    assert not OwnNetworks([NoMap], label="NoMap").make_maps(16)


def test_network_by_its_place_is_imported() -> None:
    chosen = choose_importable("torchvision.models:squeezenet1_1")
    assert chosen.name == "torchvision.models:squeezenet1_1"
    assert chosen.makes_maps(64)
    from torchvision.models import squeezenet1_1

    assert choose_importable(squeezenet1_1).name == "torchvision.models.squeezenet:squeezenet1_1"


def test_list_of_names_is_a_network_for_each_node(folder: Path) -> None:
    """Chosen, trained in a graph that names them, loaded, and looked at: maps of 8 and of 4 pixels."""
    assert choose_network(["resnet8", "abn_resnet8"]).override == "network=['resnet8','abn_resnet8']"
    data = make_images(64)
    graph = kdhpc.Graph(spec=replace(_ATTENTION.spec, networks=("resnet8", "abn_resnet8")), name="mixed")
    run = kdhpc.train(graph, dataset=data, crops=[3], **_SETTINGS)
    assert run.result.networks == ("resnet8", "abn_resnet8")
    ensemble = kdhpc.load(run)
    assert ensemble.attention(data[0][:2]).shape == (2, 2, 8, 8)
    assert "module.head.attention_fc.weight" not in ensemble.node_weights(0)
    with pytest.raises(
        ConfigError, match="mixed has the networks resnet8, abn_resnet8, network=resnet8 is not the same"
    ):
        kdhpc.train(graph, dataset=data, network="resnet8", crops=[3], **_SETTINGS)
    with pytest.raises(ConfigError, match=r"is a list of 3, the nodes of .* are 2"):
        kdhpc.train(_ATTENTION, dataset=data, network=["resnet8"] * 3, crops=[3], **_SETTINGS)
    with pytest.raises(ConfigError, match="train needs network="):
        kdhpc.train(_ATTENTION, dataset=data, **_SETTINGS)
    with pytest.raises(NetworkError, match=r"has the network resnet8\+abn_resnet8, one of kdhpc's: leave network= out"):
        kdhpc.load(run, network=["resnet8", "abn_resnet8"])
    with pytest.raises(NetworkError, match="network is a list of Small, str: give a name"):
        choose_network(["resnet8", Small()])
