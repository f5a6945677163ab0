"""A finished run, used where its data are not."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18

import kdhpc
from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import ConfigError, DataError, NetworkError
from kdhpc.inference.ensemble import Ensemble
from kdhpc.networks.build import build_network, exported_weights
from kdhpc.training.pretrained import freeze_with
from tests.api.conftest import SETTINGS, make_images

_IMAGES, _LABELS = make_images(32, seed=1)


@pytest.fixture
def ensemble(done: kdhpc.Run) -> Ensemble:
    return kdhpc.load(done)


def test_run_that_is_loaded_predicts_as_it_was_scored(done: kdhpc.Run, ensemble: Ensemble) -> None:
    probabilities = ensemble.predict(_IMAGES)
    assert probabilities.shape == (32, 2)
    assert probabilities.dtype is torch.float32
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(32))
    right = (probabilities.argmax(dim=1) == _LABELS).float().mean().item()
    assert 100 * right == pytest.approx(done.ensemble_accuracy)
    assert ensemble.classes == ("dark", "light")
    assert not ensemble.training
    assert not any(weight.requires_grad for weight in ensemble.parameters())


def test_batches_and_preprocessing_change_no_prediction(ensemble: Ensemble) -> None:
    whole = ensemble.predict(_IMAGES)
    torch.testing.assert_close(ensemble.predict(_IMAGES, batch_size=5), whole)
    (batch,) = ensemble.preprocessing(_IMAGES)
    torch.testing.assert_close(ensemble(batch).softmax(dim=1), whole)
    torch.testing.assert_close(batch, _IMAGES / 255)


def test_precision_is_found_out_once_and_told_once(
    done: kdhpc.Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ensemble = kdhpc.load(done)
    result = dataclasses.replace(ensemble.run.result, precision="fp16")  # As of a run that a GPU has trained.
    ensemble.run = dataclasses.replace(ensemble.run, result=result)
    first = ensemble.predict(_IMAGES[:2])
    monkeypatch.setattr("kdhpc.inference.ensemble.runtime_of", lambda *args: pytest.fail("it was asked for again"))
    assert torch.equal(ensemble.predict(_IMAGES[:2]), first)
    ensemble.attention(_IMAGES[:2])
    assert caplog.text.count("was trained in fp16: its networks run in float32 here") == 1


def test_files_images_and_tensors_are_the_same(ensemble: Ensemble, tmp_path: Path) -> None:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in _IMAGES[:3]]
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = ensemble.predict(_IMAGES[:3])
    for images in (paths, list(map(str, paths)), pictures, _IMAGES[:3].numpy(), list(_IMAGES[:3])):
        torch.testing.assert_close(ensemble.predict(images), expected)
    torch.testing.assert_close(ensemble.predict(paths[0]), expected[:1])
    large = pictures[0].resize((64, 48), Image.Resampling.NEAREST)
    assert ensemble.predict(large).shape == (1, 2)


def test_classes_by_name_are_those_of_the_probabilities_to_the_bit(ensemble: Ensemble) -> None:
    found = ensemble.classify(_IMAGES, top=9, batch_size=5)
    assert all(len(by) == 2 for one in found for by in (one.ensemble, *one.nodes))
    probabilities = ensemble.predict(_IMAGES, batch_size=5)
    assert [[one.ensemble[0].label, one.ensemble[0].probability] for one in found] == [
        [label, row[label]]
        for row, label in zip(probabilities.tolist(), probabilities.argmax(dim=1).tolist(), strict=True)
    ]
    for node in range(2):
        right = sum(one.nodes[node][0].label == label for one, label in zip(found, _LABELS.tolist(), strict=True))
        assert 100 * right / 32 == pytest.approx(ensemble.run.node_accuracies[node])
    assert {one.ensemble[0].name for one in found} == {"dark", "light"}
    assert len(ensemble.classify(_IMAGES[0].numpy()[None], top=1)[0].nodes[1]) == 1
    with pytest.raises(ConfigError, match="top=0 is not allowed"):
        ensemble.classify(_IMAGES, top=0)


def test_attention_maps_are_those_of_the_nodes(ensemble: Ensemble) -> None:
    maps = ensemble.attention(_IMAGES[:4], batch_size=3)
    assert maps.shape == (4, 2, 4, 4)
    assert maps.min() >= 0
    with torch.no_grad():
        expected = ensemble.nodes[1](_IMAGES[:4] / 255).attention_map
    torch.testing.assert_close(maps[:, 1], expected)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (_IMAGES / 255, "the images has images of type float32, from 0 to 1"),
        (_IMAGES[:, :2], "the images has images of shape (32, 2, 16, 16)"),
        ([], "there are no images: give one or more"),
        (7, "images are a int"),
        (["no.png"], "no.png: no such file"),
        ([7], "image 0 is a int"),
    ],
)
def test_images_that_cannot_be_used_are_refused(ensemble: Ensemble, images: object, words: str) -> None:
    with pytest.raises(DataError) as caught:
        ensemble.predict(images)
    assert words in str(caught.value)


def test_run_from_before_classes_were_written_has_numbers(
    done: kdhpc.Run, ensemble: Ensemble, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = folder / "old"
    shutil.copytree(done.folder, old)
    RunPaths(old).model.unlink()
    with caplog.at_level(logging.WARNING):
        found = kdhpc.load(old)
    assert [record.getMessage() for record in caplog.records] == [
        f"{old} does not say its classes, and its data set is not here: they are numbers"
    ]
    assert found.classes == ("0", "1")
    torch.testing.assert_close(found.predict(_IMAGES), ensemble.predict(_IMAGES))


def test_folder_of_one_seed_will_do_and_damage_is_told(done: kdhpc.Run, folder: Path) -> None:
    copy = folder / "name"
    shutil.copytree(done.folder, copy / "seed0")
    assert kdhpc.load(copy).classes == ("dark", "light")
    RunPaths(copy / "seed0").model.write_text('{"format": "kdhpc-model", "version": 1, "classes": []}')
    with pytest.raises(DataError, match=r"model\.json does not say the run's classes"):
        kdhpc.load(copy)


def test_one_has_an_ensemble_and_no_maps(folder: Path) -> None:
    settings = {**SETTINGS, "dataset": make_images(48), "test": (_IMAGES, _LABELS), "num_nodes": 2}
    run = kdhpc.train("one", **settings)
    one = kdhpc.load(run)
    right = (one.predict(_IMAGES).argmax(dim=1) == _LABELS).float().mean().item()
    assert 100 * right == pytest.approx(run.ensemble_accuracy)
    with pytest.raises(NetworkError, match="node 1 makes no attention map"):
        one.attention(_IMAGES)
    student = kdhpc.train(
        "student",
        teacher=str(kdhpc.train(kdhpc.independent(1), **{**settings, "num_nodes": 1}).folder),
        **{**settings, "num_nodes": None},
    )
    assert kdhpc.load(student).predict(_IMAGES).shape == (32, 2)


def test_weights_of_torchvisions_networks_have_its_names(tmp_path: Path) -> None:
    config = NetworkConfig(name="resnet18", crops=(1,))
    network = build_network(config, num_classes=3, image_size=32).eval()
    theirs = resnet18(num_classes=3).eval()
    save_file({name: tensor.contiguous() for name, tensor in exported_weights(network).items()}, tmp_path / "node")
    theirs.load_state_dict(load_file(tmp_path / "node"))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), network(images).logits)
    for weights in (load_file(tmp_path / "node"), network.state_dict()):  # Of now, and of runs from before.
        again = build_network(config, num_classes=3, image_size=32)
        freeze_with(again, weights, origin="a run")
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
    for name in ("abn_resnet18", "resnet8"):  # Not torchvision's.
        ours = build_network(NetworkConfig(name=name, crops=(1,)), num_classes=3, image_size=32)
        assert exported_weights(ours).keys() == ours.state_dict().keys()


def test_grey_images_are_read_as_the_run_has_them(folder: Path, tmp_path: Path) -> None:
    images, labels = make_images(48, channels=1)
    run = kdhpc.train(kdhpc.dml(1), dataset=(images.numpy(), labels.numpy()), **SETTINGS)
    ensemble = kdhpc.load(run.folder)
    colour = images[:2].expand(2, 3, 16, 16)
    np.testing.assert_allclose(ensemble.predict(images[:2]), ensemble.predict(colour), atol=1e-5)
