"""Runs that are done, found and opened from their folders; what a teacher asks of one is in test_student."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError, NetworkError
from kdhpc.experiments.finished import find_finished, open_finished
from tests.experiments.test_final import StopAfter, train

CPU = torch.device("cpu")


@pytest.fixture
def pair(place):
    """Two seeds of a training of two nodes."""
    for seed in (0, 1):
        train(place.config("run.graph=dml", "run.num_nodes=2", "run.name=pair", f"run.seed={seed}"))
    return Path("runs/train/pair")


def test_open_finished_gives_the_networks_as_they_were(pair):
    run = open_finished(pair / "seed1")
    assert (run.label, run.origin, run.is_one) == ("pair-seed1", "runs/train/pair/seed1", False)
    assert run.open_images().checksum == run.dataset_checksum
    for node in (0, 1):
        network = run.network(node, 2, CPU)
        weights = load_file(RunPaths.of("pair", 1).weights(node))
        assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert run.weights_digest(0) != run.weights_digest(1)
    assert run.weights_digest() == run.weights_digest(0, 1)


def test_open_finished_damaged_weights_are_named(pair):
    run = open_finished(pair / "seed0")
    with pytest.raises(NetworkError, match=r"seed0: node1\.safetensors has .* for tensor 'head\.fc\.bias'"):
        run.network(0, 5, CPU)
    run.weights[1].unlink()
    for read in (lambda: run.network(1, 2, CPU), lambda: run.weights_digest(1)):
        with pytest.raises(NetworkError, match=r"seed0.*node2\.safetensors.* cannot be read"):
            read()


def test_open_finished_images_that_are_others_are_refused(pair):
    settings = pair / "seed0" / "settings.json"
    settings.write_text(settings.read_text().replace('"dataset.checksum": "', '"dataset.checksum": "0'))
    with pytest.raises(DataError, match="was trained with other images than data set 'tiny' has here"):
        open_finished(pair / "seed0").open_images()


def test_find_finished_takes_each_run_once_in_order_and_warns_of_those_that_are_not_done(pair, place, caplog):
    shutil.copytree(pair / "seed0", pair / "seed10")
    path = pair / "seed10" / "result.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 10'))
    train(place.config("run.num_nodes=1", "run.name=begun"), stop=StopAfter(1))
    with caplog.at_level(logging.WARNING):
        found = find_finished([pair / "seed1", Path("runs/train"), pair.absolute()])
    assert [run.label for run in found] == ["pair-seed0", "pair-seed1", "pair-seed10"]
    assert [record.getMessage() for record in caplog.records] == ["left out, not done: runs/train/begun/seed0"]


@pytest.mark.parametrize(
    ("folder", "said"), [("nowhere", "nowhere is no folder"), (".", "holds no run of `kdhpc train`")]
)
def test_find_finished_without_any_is_refused(place, folder, said):
    with pytest.raises(ConfigError, match=said):
        find_finished([Path(folder)])
