"""A search over three kinds of networks on real images: kdhpc's own, timm's, and a user's; and what follows from it."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kdhpc
from kdhpc.cli.main import main
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.networks.own import OWN_NETWORKS
from kdhpc.searching.export import export_trials
from kdhpc.searching.plan import plan_study
from kdhpc.searching.worker import run_worker
from kdhpc.study.status import top_trials
from kdhpc.training.metrics import read_metrics
from tests.final.test_final import StopAfter, same, train, weights_of
from tests.training.test_loop import without_time

_ROOT = Path(__file__).resolve().parents[2]
# Where tools/fetch_fashion_mnist leaves the published files: the quickstart does it, and CI before the tests.
_PLACES = (Path("/usr/share/datasets/fashion-mnist"), _ROOT / "data/sources/FashionMNIST/raw")
_NETWORKS = ("resnet8", "timm/test_vit", "mixed_own:Own")
_LISTED = f"network=[{','.join(_NETWORKS)}]"
_FEW = (
    *("dataset=fashion_mnist", "dataset.name=clothes", "dataset.image_size=32", "dataset.subset=null"),
    *("training=short", "device=cpu", "device.threads=1"),
    *("training.epochs=2", "training.milestones=[]", "training.batch_size=16"),
)
_OWN = '''
from torch import nn


class Own(nn.Sequential):
    """Maps of half the images' side, and dropout."""

    def __init__(self, num_classes):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
        )
'''


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def write_clothes(folder):
    """Trousers, bags and boots: of each 32 published images to learn from, and 8 to be scored on, as files."""
    num_read = 1000
    published = next((place for place in _PLACES if (place / "t10k-images-idx3-ubyte.gz").exists()), None)
    if published is None:
        said = "Fashion-MNIST is not here: tools/fetch_fashion_mnist gets it"
        assert os.environ.get("KDHPC_REQUIRE_IMAGES") != "1", said
        pytest.skip(said)
    with gzip.open(published / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(16 + num_read * 28 * 28)[16:], dtype=np.uint8).reshape(num_read, 28, 28)
    with gzip.open(published / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + num_read)[8:], dtype=np.uint8)
    for label in (1, 8, 9):
        for index, image in enumerate(pixels[labels == label][:40]):
            path = folder / ("train" if index < 32 else "test") / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def test_search_over_three_kinds_of_networks_ends_in_a_training_that_may_be_stopped_anywhere(
    storage, tmp_path, monkeypatch
):
    """Maps of 8, 2 and 16 pixels. The graph's file names the user's code, which is imported if the user names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "data"))
    write_clothes(tmp_path / "clothes")
    assert main(["data", "prepare", "folder", "clothes", "--name", "clothes", "--size", "32"]) == 0
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mixed_own.py").write_text(_OWN)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))

    config = compose_search(
        ["study=quickstart", *_FEW, _LISTED, "study.num_nodes=3", "study.trials=3", "study.baselines=[]"]
    )
    study = plan_study("mixed", config).open(storage)
    with StopSignals() as signals:
        assert run_worker(study, config, signals) >= 3
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    exported = tmp_path / "mixed.json"
    best = top_trials(storage, "mixed", 1)
    files, _ = export_trials(study.definition, best, tmp_path / "export", draw=False)
    files[0].graph.rename(exported)
    graph = kdhpc.load_graph(exported)
    assert graph.spec.networks == _NETWORKS

    OWN_NETWORKS.pop("mixed_own:Own")  # As in the process of somebody who has the file alone.
    words = (*_FEW, f"run.graph={exported}")
    said = r"has the network mixed_own:Own, code that is imported only if you name it: give network="
    with pytest.raises(ConfigError, match=rf"mixed\.json {said}\[resnet8,timm/test_vit,mixed_own:Own\]"):
        compose_train(words)
    with pytest.raises(NetworkError, match=said):
        kdhpc.train(graph, dataset="clothes")
    assert "mixed_own:Own" not in OWN_NETWORKS

    whole, _ = train(compose_train([*words, _LISTED, "run.name=whole"]))
    assert (whole.networks, len(whole.node_accuracies), whole.training_images) == (_NETWORKS, 3, 96)
    rounds, pieces = 0, None
    while pieces is None:
        pieces, _ = train(compose_train([*words, _LISTED, "run.name=pieces"]), stop=StopAfter(5))
        rounds += 1
    assert rounds == 3
    assert all(same(weights_of("pieces", node=node), weights_of("whole", node=node)) for node in range(3))
    assert pieces.node_accuracies == whole.node_accuracies
    expected, found = (read_metrics(RunPaths.of(name, 0).metrics) for name in ("whole", "pieces"))
    assert without_time(found) == without_time(expected)

    ensemble = kdhpc.load(RunPaths.of("whole", 0).root, device="cpu")
    images = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        (batch,) = ensemble.preprocessing(images)
        assert [node(batch).attention_map.shape[-1] for node in ensemble.nodes] == [8, 2, 16]
    assert ensemble.attention(images).shape == (2, 3, 16, 16)
