"""Final trainings before they start: everything that is wrong with any of them is found, and nothing is written."""

import pytest
import torch

from kdhpc.config import renamed
from kdhpc.config.compatibility import FIRST_KEYS
from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError, GraphError, KdhpcError, NetworkError
from kdhpc.final.final import train_final
from kdhpc.final.run import open_all, open_run
from kdhpc.final.settings import digest, read_settings
from kdhpc.training import device


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
    with pytest.raises(NetworkError, match=r"with resnet14, seed 0: objective\.pretrained=.* does not fit resnet14"):
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


@pytest.mark.parametrize(("begun", "has_amx"), [("bf16", False), ("float32", True)])
def test_open_run_whose_precision_is_auto_has_that_of_the_other_seeds(begun, has_amx, place, monkeypatch):
    """On another machine, or with another version, ``auto`` may be something else."""
    train(place.config("run.num_nodes=1", f"device.precision={begun}"))
    monkeypatch.setattr(device, "_has_amx", lambda: has_amx)
    for seed in (0, 1):
        assert open_run(place.config("run.num_nodes=1", f"run.seed={seed}")).here.precision == begun
    assert open_run(place.config("run.num_nodes=1", "run.name=other")).here.precision != begun
    RunPaths.of("tiny-resnet8-independent1", 0).settings.unlink()
    assert open_run(place.config("run.num_nodes=1", "run.seed=1")).here.precision == begun, "as its result says"


def test_open_run_in_a_precision_that_this_machine_has_not_says_so(place):
    train(place.config("run.num_nodes=1"))
    path = RunPaths.of("tiny-resnet8-independent1", 0).settings
    path.write_text(path.read_text().replace('"device.precision": "float32"', '"device.precision": "fp16"'))
    with pytest.raises(ConfigError, match=r"independent1 was begun in fp16, and cannot go on here: fp16 needs CUDA"):
        open_run(place.config("run.num_nodes=1"))


def test_open_run_goes_on_with_what_was_begun_before_precision_counted(place):
    config = place.config("run.num_nodes=1")
    train(config)
    settings = RunPaths.of("tiny-resnet8-independent1", 0).settings
    text = settings.read_text()
    assert '"device.precision": "float32"' in text
    settings.write_text(text.replace(',\n  "device.precision": "float32"', ""))
    assert open_run(config).paths.settings == settings


def test_run_from_before_a_key_was_renamed_goes_on_from_its_checkpoint_and_counts_with_it(place, monkeypatch, caplog):
    """``training.gamma`` as the new name of ``training.decay``, which the run's files have."""
    config = place.config("run.num_nodes=1", "training.evaluate=last")
    monkeypatch.setattr(renamed, "RENAMED_KEYS", {"training.decay": "training.gamma"})
    first = FIRST_KEYS - {"training.gamma"} | {"training.decay"}
    monkeypatch.setattr("kdhpc.config.compatibility.FIRST_KEYS", first)
    assert train_final(config, show=lambda report: None, should_stop=lambda: True) is None
    path = open_run(config).paths.settings
    path.write_text(path.read_text().replace("training.gamma", "training.decay"))
    assert read_settings(path).keys() == open_run(config).settings.keys()
    with caplog.at_level("INFO"):
        result = train_final(config, show=lambda report: None, should_stop=lambda: False)
    assert "goes on after epoch 0, step 1" in caplog.text
    assert result.settings == digest(open_run(config).settings)
    with pytest.raises(ConfigError, match=r"training\.gamma was 0\.1, is 0\.5"):
        open_run(place.config("run.num_nodes=1", "training.gamma=0.5", "run.seed=1"))


def test_run_that_a_newer_kdhpc_has_finished_is_said_to_be_so_and_is_not_to_be_removed(place):
    config = place.config("run.num_nodes=1")
    train(config)
    path = open_run(config).paths.result
    path.write_text(path.read_text().replace('"seed":', '"judged_by": "x",\n  "seed":'))
    with pytest.raises(DataError) as error:
        train(config)
    assert str(error.value) == f"{path} was made by a newer kdhpc, this one does not know judged_by: use that version"
