"""Final trainings before they start: everything that is wrong with any of them is found, and nothing is written."""

import pytest
import torch

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError, GraphError, KdhpcError, NetworkError
from kdhpc.final.final import train_final
from kdhpc.final.run import open_all, open_run


def train(config):
    return train_final(config, show=lambda report: None, should_stop=lambda: False)


@pytest.mark.parametrize(
    ("overrides", "kind", "said"),
    [
        (("run.graph=gone.json",), GraphError, "gone.json on tiny with resnet8, seed 1: graph 'gone.json'"),
        (
            ("dataset.name=nothing",),
            DataError,
            "independent on nothing with resnet8, seed 1: data set 'nothing' is not",
        ),
        (
            ("network=resnet20", "run.graph='uniform:att+'", "run.num_nodes=2"),
            NetworkError,
            r"with resnet20, seed 1: network\.crops=\[3, 5, 7\] does not fit",
        ),
        (("dataset.image_size=99",), ConfigError, "dataset.image_size=99 is not allowed: the stored images"),
        (("training.batch_size=65",), ConfigError, "only 64 images train"),
        (("run.split=search", "dataset.validation_fraction=0.999"), ConfigError, "validation_fraction=0.999"),
        (("device.device=cuda",), ConfigError, "device.device=cuda cannot be used"),
        (("device.precision=fp16",), ConfigError, "device.precision=fp16 needs CUDA"),
        (("device.node_streams=true",), ConfigError, "device.node_streams=true needs CUDA"),
        (("device.mode=cudagraph",), ConfigError, "device.mode=cudagraph needs CUDA"),
    ],
)
def test_open_all_finds_what_is_wrong_with_a_later_one(place, monkeypatch, overrides, kind, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    good = place.config("run.num_nodes=1")
    bad = place.config("run.num_nodes=1", "run.seed=1", *overrides)
    with pytest.raises(kind, match=said):
        open_all([good, bad])
    assert not place.runs.exists()


def test_open_all_finds_weights_of_another_network(place):
    train(place.config("run.num_nodes=1", "run.name=w"))
    weights = RunPaths.of("w", 0).weights(0)
    taught = ("run.num_nodes=1", "objective.unlearned=pretrained", f"objective.pretrained={weights}")
    with pytest.raises(NetworkError, match=r"with resnet14, seed 0: objective\.pretrained=.* this network has"):
        open_all([place.config(*taught), place.config(*taught, "network.name=resnet14")])


def test_open_all_finds_a_folder_that_was_begun_with_something_else(place):
    train(place.config("run.num_nodes=1", "run.seed=3"))
    with pytest.raises(
        ConfigError, match=r"seed 4: .*seed3 was begun with other settings \(training\.epochs was 2, is 1"
    ):
        open_all([place.config("run.num_nodes=2"), place.config("run.num_nodes=1", "run.seed=4", "training.epochs=1")])


def test_open_all_finds_two_of_one_name(place):
    configs = [place.config("run.num_nodes=1", f"training.momentum={momentum}") for momentum in (0.5, 0.9)]
    with pytest.raises(
        ConfigError, match=r"both called tiny-resnet8-independent1 \(training\.momentum was 0\.5, is 0\.9"
    ):
        open_all(configs)


def test_open_all_of_a_single_one_does_not_name_it(place):
    with pytest.raises(KdhpcError, match=r"^graph 'gone\.json'"):
        open_all([place.config("run.graph=gone.json")])


def test_open_run_elsewhere_asks_no_device_of_this_machine(place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train(place.config("run.num_nodes=1"))
    cuda = place.config("run.num_nodes=1", "device.device=cuda", "device.precision=fp16")
    assert open_run(cuda, elsewhere=True).name == "tiny-resnet8-independent1"
    with pytest.raises(ConfigError, match=r"training\.epochs was 2, is 9"):
        open_run(place.config("run.num_nodes=1", "training.epochs=9"), elsewhere=True)


def test_open_run_goes_on_with_what_was_begun_before_precision_counted(place):
    config = place.config("run.num_nodes=1")
    train(config)
    settings = RunPaths.of("tiny-resnet8-independent1", 0).settings
    text = settings.read_text()
    assert '"device.precision": "float32"' in text
    settings.write_text(text.replace(',\n  "device.precision": "float32"', ""))
    assert open_run(config).paths.settings == settings
