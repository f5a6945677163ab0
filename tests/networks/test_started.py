"""Weights from a file that networks start from."""

import pytest
import torch
from safetensors.torch import save_file

from kdhpc.config.schema import NetworkConfig, ObjectiveConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.build import build_network, exported_weights
from kdhpc.networks.started import build_started, check_started
from kdhpc.networks.weights import check_start, start_digest, weights_digest

SMALL = "tests.networks.toys:Small"


def config(name, path):
    return NetworkConfig(name=name, weights=str(path))


def weights_of(name, num_classes=4):
    network = build_network(NetworkConfig(name=name), num_classes=num_classes, image_size=12)
    return {
        key: tensor + 0.5 if tensor.is_floating_point() else tensor for key, tensor in exported_weights(network).items()
    }


@pytest.mark.parametrize("name", ["resnet8", "abn_resnet8", "wrn16_2", "resnet18", SMALL])
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_network_starts_from_its_file(tmp_path, name, kind):
    weights, path = weights_of(name), tmp_path / "weights"
    if kind == "torch":
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}, "epoch": 3}, path)
    else:
        save_file(weights, path)
    check_start(config(name, path))
    found = exported_weights(build_started(config(name, path), num_classes=4, image_size=12))
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in weights.items())


@pytest.mark.parametrize("name", ["resnet8", "abn_resnet8", SMALL])
def test_classifier_of_other_classes_keeps_initial_weights_and_says_so(tmp_path, caplog, name):
    weights, path = weights_of(name, num_classes=9), tmp_path / "weights"
    save_file(weights, path)
    check_started(config(name, path), num_classes=4, image_size=12)
    torch.manual_seed(5)
    started = exported_weights(build_started(config(name, path), num_classes=4, image_size=12))
    torch.manual_seed(5)
    initial = exported_weights(build_network(NetworkConfig(name=name), num_classes=4, image_size=12))
    same = {key for key, tensor in started.items() if tensor.shape == weights[key].shape}
    assert all(torch.equal(started[key], weights[key]) for key in same)
    assert all(torch.equal(started[key], initial[key]) for key in started.keys() - same)
    assert len(same) < len(started)
    (record,) = [record for record in caplog.records if "keep initial weights" in record.message]
    assert "tells 9 classes apart, the data set has 4: " in record.message


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"nothing"), "cannot be read as safetensors"),
        (lambda path: torch.save({"fc": Evil()}, path), "cannot be read as a state_dict"),
        (lambda path: torch.save([1, 2], path), "holds a list that is no state_dict"),
        (
            lambda path: torch.save(weights_of("resnet14"), path),
            "has .* for tensor 'head.layer4.1.* this network has nothing",
        ),
        (lambda path: save_file({"fc.weight": torch.full((2,), torch.nan)}, path), "holds numbers that are none"),
        (lambda path: torch.save({"fc.weight": torch.full((2,), torch.inf)}, path), "holds numbers that are none"),
    ],
)
def test_file_of_no_weights_of_this_network_is_refused(tmp_path, capfd, write, said):
    path = tmp_path / "weights"
    write(path)
    with pytest.raises(NetworkError, match=said):
        build_started(config("resnet8", path), num_classes=4, image_size=12)
    assert "executed" not in capfd.readouterr().out


def test_digest_is_of_the_content(tmp_path):
    path, copy, other = tmp_path / "one", tmp_path / "copy", tmp_path / "other"
    for file, content in ((path, b"PK\x03\x04a"), (copy, b"PK\x03\x04a"), (other, b"PK\x03\x04b")):
        file.write_bytes(content)
    assert start_digest(config("resnet8", path)) == start_digest(config("resnet8", copy))
    both = [weights_digest(ObjectiveConfig(), start=config("resnet8", file)) for file in (path, other)]
    assert both[0] != both[1]
    assert weights_digest(ObjectiveConfig(), start=NetworkConfig(name="resnet8")) is None
