"""Runs that are done, found and opened from their folders; what a teacher asks of one is in test_student."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError, NetworkError, StorageError
from kdhpc.final.finished import find_finished, open_finished
from kdhpc.methods.graph import GraphMethod
from tests.final.test_final import StopAfter, train

CPU = torch.device("cpu")


@pytest.fixture
def pair(place):
    """Two seeds of a training of two nodes."""
    for seed in (0, 1):
        train(place.config("run.graph=dml", "run.num_nodes=2", "run.name=pair", f"run.seed={seed}"))
    return Path("runs/train/pair")


def test_open_finished_gives_the_networks_as_they_were(pair):
    run = open_finished(pair / "seed1")
    assert (run.label, run.origin, run.method) == ("pair-seed1", "runs/train/pair/seed1", GraphMethod)
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


def test_find_finished_leaves_out_folders_in_which_nothing_is_done(pair, place, caplog):
    train(place.config("run.num_nodes=1", "run.name=begun"), stop=StopAfter(1))
    with caplog.at_level(logging.WARNING):
        found = find_finished([Path("runs/train/begun"), pair])
    assert [run.label for run in found] == ["pair-seed0", "pair-seed1"]
    assert caplog.messages == ["left out, no training in it is done: runs/train/begun"]


@pytest.mark.parametrize(
    ("folder", "said"), [("nowhere", "nowhere is no folder"), (".", "holds no run of `kdhpc train`")]
)
def test_find_finished_without_any_is_refused(place, folder, said):
    with pytest.raises(ConfigError, match=said):
        find_finished([Path(folder)])


def test_find_finished_takes_copies_once_and_names_them(pair, caplog):
    shutil.copytree(pair / "seed0", pair / "seed0.bak")
    shutil.copytree(pair, pair.with_name("copied"))
    with caplog.at_level(logging.WARNING):
        found = find_finished([Path("runs/train")])
    assert [str(run.paths.root) for run in found] == ["runs/train/pair/seed0", "runs/train/pair/seed1"]
    assert sorted(caplog.messages) == [
        f"left out, a copy of runs/train/pair/{kept}: runs/train/{copy}"
        for kept, copy in (("seed0", "copied/seed0"), ("seed0", "copied/seed0.bak"), ("seed0", "pair/seed0.bak"))
    ] + ["left out, a copy of runs/train/pair/seed1: runs/train/copied/seed1"]


def test_find_finished_leaves_out_what_cannot_be_read_unless_it_is_named(pair, caplog):
    (pair / "seed0" / "result.json").write_bytes(b"\0" * 99)
    with caplog.at_level(logging.WARNING):
        assert [run.label for run in find_finished([pair])] == ["pair-seed1"]
    (said,) = caplog.messages
    assert said.startswith("left out: runs/train/pair/seed0/result.json is not a result of a final training: ")
    with pytest.raises(DataError, match=r"seed0/result\.json is not a result"):
        find_finished([pair / "seed0"])


def test_open_finished_weights_that_are_not_those_of_its_result_are_refused(pair):
    path = pair / "seed0" / "node1.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-512] + bytes(512))
    run = open_finished(pair / "seed0")
    for read in (run.check_weights, lambda: run.network(0, 2, CPU)):
        with pytest.raises(NetworkError, match=r"seed0: node1\.safetensors is not what was written when the training"):
            read()


def test_open_finished_reads_weights_where_nothing_can_be_mapped(place, faulty, tmp_path):
    train(place.config("run.num_nodes=1", "run.name=single"))
    faulty.rules("open node1 direct=1", "open node1 err=ESTALE 2")
    run = open_finished(RunPaths.of("single", 0).root)
    assert run.read_weights(0).keys()
    faulty.rules("open node1 err=EACCES")
    with pytest.raises(StorageError, match=r"node1\.safetensors cannot be read: Permission denied"):
        run.read_weights(0)
