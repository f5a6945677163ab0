"""Final trainings of networks that are not kdhpc's own."""

import io
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdhpc.config.compose import compose_train
from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import TrainConfig
from kdhpc.data.progress import Progress
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.final.finished import open_finished
from kdhpc.networks.build import build_network, exported_weights
from kdhpc.networks.own import OWN_NETWORKS
from kdhpc.report.attention import read_attention
from tests.final.conftest import Place
from tests.final.test_final import StopAfter, same, train, weights_of

_SMALL = "tests.networks.toys:Small"


def _config(*overrides: str) -> TrainConfig:
    given = ("dataset=tiny", "training=tiny", "device.threads=1", "run.graph=dml", "run.num_nodes=2", *overrides)
    return compose_train(list({word.partition("=")[0]: word for word in given}.values()))


@pytest.mark.parametrize(
    "how",
    [
        ("network=timm/test_byobnet",),
        ("network=tests.networks.toys:small_patches", "run.graph='uniform:prob+att+'"),
    ],
)
def test_training_that_was_stopped_ends_with_the_same_weights(place: Place, how: tuple[str, ...]) -> None:
    """A network of timm's, and a transformer with dropout whose patches are compared."""
    few = ("training.epochs=1", "run.seed=1")
    whole, _ = train(_config(*how, *few, "run.name=whole"))
    pieces = _config(*how, *few, "run.name=pieces")
    assert train(pieces, stop=StopAfter(2))[0] is None
    torch.rand(3)
    result, _ = train(pieces)
    assert result.ensemble_accuracy == whole.ensemble_accuracy
    for node in range(2):
        assert same(weights_of("pieces", 1, node), weights_of("whole", 1, node))


def test_network_of_torchvision_on_small_images_learns_by_probabilities(place: Place) -> None:
    """Its features are a single pixel there: graphs that compare attention maps are refused, and others are not."""
    network = "network=torchvision/mobilenet_v3_small"
    result, _ = train(_config(network, "training.epochs=1"))
    assert result.name == "tiny-torchvision-mobilenet_v3_small-dml2"
    finished = open_finished(RunPaths.of(result.name, 0).root)
    assert "features.0.0.weight" in load_file(finished.weights[0])
    images = torch.rand(3, 3, 16, 16)
    assert finished.network(1, 2, torch.device("cpu"))(images).logits.shape == (3, 2)
    with pytest.raises(NetworkError, match=r"makes no attention map on images of 16x16 .*prob") as error:
        train(_config(network, "run.graph='uniform:att+'"))
    assert "\n" not in str(error.value)


def test_code_that_only_a_runs_files_name_is_not_imported(place: Place) -> None:
    result, _ = train(_config(f"network={_SMALL}", "training.epochs=1", "run.graph=independent"))
    teacher = RunPaths.of(result.name, 0).root
    finished, student = open_finished(teacher), ("run.graph=student", "run.num_nodes=null", f"run.teacher={teacher}")
    assert finished.network(0, 2, torch.device("cpu")).makes_map
    OWN_NETWORKS.clear()
    for use in (
        lambda: finished.network(0, 2, torch.device("cpu")),
        lambda: train(_config("network=tiny", *student)),
        lambda: read_attention(finished, num_images=1, indices=None, progress=Progress(io.StringIO())),
    ):
        with pytest.raises(NetworkError, match=rf"has the network {_SMALL}, code that is imported only if you name it"):
            use()
    assert not OWN_NETWORKS
    taught, _ = train(_config(f"network={_SMALL}", "training.epochs=1", *student))
    assert taught.teacher_accuracy == result.ensemble_accuracy
    shown = read_attention(finished, num_images=1, indices=None, progress=Progress(io.StringIO()))
    assert [map.shape for map in shown.examples[0].maps] == [(8, 8)] * 2


def test_training_that_starts_from_a_file_depends_on_its_content(place: Place) -> None:
    config, path = _config(f"network={_SMALL}", "training.epochs=1"), place.folder / "start.safetensors"
    network = build_network(config.network, num_classes=5, image_size=16)
    save_file(exported_weights(network), path)
    result, _ = train(started := _config(f"network={_SMALL}", "training.epochs=1", "network.weights=start.safetensors"))
    plain, _ = train(_config(f"network={_SMALL}", "training.epochs=1", "run.name=plain"))
    assert started.network.weights == str(path)
    settings = json.loads(RunPaths.of(result.name, 0).settings.read_text())
    assert len(settings["network.weights"]) == 16
    assert "network.weights" not in json.loads(RunPaths.of(plain.name, 0).settings.read_text())
    assert not same(weights_of(result.name), weights_of(plain.name))
    with pytest.raises(ConfigError, match=r"was begun with other settings \(network\.weights"):
        train(config)
    with pytest.raises(ConfigError, match=r"network\.weights=nowhere does not exist"):
        _config("network=resnet8", "network.weights=nowhere")
    with pytest.raises(ConfigError, match=r"network\.weights=.* has no meaning for run\.graph=one"):
        train(_config("network=resnet8", "run.graph=one", "network.weights=start.safetensors"))
