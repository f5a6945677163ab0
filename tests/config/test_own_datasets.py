"""Data sets without a config file: what is packed says how to train on it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kdhpc.cli.data_use import use_of
from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.document import read_config, write_config
from kdhpc.config.own_datasets import StoredAs, dataset_group_of, packed_names
from kdhpc.config.schema import DatasetConfig, SearchConfig, TrainConfig
from kdhpc.config.sweep import launch_sweep
from kdhpc.data.channels import channel_statistics
from kdhpc.data.fitting import check_image_size
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import ConfigError, DataError
from tests.data.made import pack
from tests.data.trees import write_folder

_TRAIN = ("network=resnet8", "run.graph=dml", "run.num_nodes=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packed data sets."""
    folder = tmp_path_factory.mktemp("packed")
    source = write_folder(folder / "source", train=12, test=2)
    pack(source, folder / "data" / "pets", size=32)
    pack(source, folder / "data" / "photos", size=256)
    return folder / "data"


@pytest.fixture
def data(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


def _dataset(name: str, *overrides: str) -> DatasetConfig:
    return compose_train([f"dataset={name}", *_TRAIN, *overrides]).dataset


def test_packed_data_set_is_a_config_with_settings_by_its_size(data: Path) -> None:
    small, large = _dataset("pets"), _dataset("photos", "dataset.image_size=192")
    assert (small.name, small.image_size, small.augmentation, small.pad) == ("pets", 32, "pad_crop", 4)
    assert (large.image_size, large.augmentation, large.resize) == (192, "resized_crop", 256)
    assert _dataset("photos").image_size == 224
    manifest = PackedDataset.open(data / "pets").manifest
    assert (small.mean, small.std, small.validation_fraction) == (manifest.mean, manifest.std, 0.2)
    assert len(manifest.mean) == 3


def test_mean_and_deviation_are_those_of_the_training_images(data: Path) -> None:
    pixels = np.asarray(PackedDataset.open(data / "pets").train.images).astype(np.float64) / 255
    mean, std = channel_statistics(data / "pets")
    assert mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-4)
    assert std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-4)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (95, 200), (96, 96), (120, 97), (600, 300)])
def test_settings_fit_images_of_every_size(shape: tuple[int, int]) -> None:
    height, width = shape
    for per_class in (1.0, 100.0):
        group = dataset_group_of("pets", StoredAs(height=height, width=width, per_class=per_class))
        check_image_size(DatasetConfig(**group), shape)  # type: ignore[arg-type]  # as parsed
        assert group["validation_fraction"] == (0.5 if per_class < 5 else 0.2)


def test_config_of_a_study_holds_what_the_packed_images_said(data: Path, tmp_path: Path) -> None:
    """Workers read the file of a launch; the images may be packed anew meanwhile."""
    config = compose_search(["study=quickstart", "dataset=pets", "dataset.subset=null"])
    write_config(config, tmp_path / "frozen.yaml")
    shutil.rmtree(data / "pets")
    frozen = read_config(SearchConfig, tmp_path / "frozen.yaml")
    assert frozen == config
    assert (frozen.dataset.name, frozen.dataset.image_size) == ("pets", 32)


def test_config_files_go_before_what_is_packed(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "pets", data / "cifar10")
    assert _dataset("cifar10").mean == (0.4914, 0.4822, 0.4465), "the shipped one"
    own = tmp_path / "configs" / "dataset" / "pets.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: pets\nimage_size: 24\naugmentation: pad_crop\nvalidation_fraction: 0.3\n")
    assert (_dataset("pets").image_size, _dataset("pets").mean) == (24, None)


def test_list_of_defaults_may_name_a_packed_data_set(data: Path, tmp_path: Path) -> None:
    study = tmp_path / "configs" / "study" / "mine.yaml"
    study.parent.mkdir(parents=True)
    study.write_text("# @package _global_\ndefaults:\n  - override /dataset: pets\n  - override /network: resnet8\n")
    assert compose_search(["study=mine", "study.num_nodes=2", "study.trials=3"]).dataset.image_size == 32


def test_sweep_as_jobs_knows_packed_data_sets(data: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def task(config: TrainConfig, number: int) -> None:
        seen.append((config.dataset.name, config.dataset.image_size))

    words = ["dataset=pets,photos", *_TRAIN]
    launch_sweep(task, words, launcher="basic", at_once=None, folder=tmp_path / "sweep", config_dir=None)
    assert seen == [("pets", 32), ("photos", 224)]


def test_unknown_data_set_names_packed_ones_and_how_to_prepare_it(data: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown dataset 'pet': did you mean 'pets'\? allowed: cifar10, .*photos"
    ) as e:
        _dataset("pet")
    assert "to prepare it: kdhpc data prepare READER SOURCE --name pet" in str(e.value)
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match=r"no dataset chosen: add dataset=NAME, allowed: .*pets, photos"):
        compose_train(_TRAIN)


@pytest.mark.parametrize("content", ["", "[]", '{"image_shape": [32, 32]}', '{"image_shape": 3}', "[" * 100_000])
def test_damaged_manifest_is_one_line(data: Path, content: str) -> None:
    (data / "pets" / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json is damaged: see `kdhpc data check pets`"):
        _dataset("pets")
    assert _dataset("photos").image_size == 224


def test_data_set_that_an_older_kdhpc_packed_is_not_normalised(data: Path) -> None:
    path = data / "pets" / "manifest.json"
    older = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("mean", "std", "split")}
    path.write_text(json.dumps(older))
    assert _dataset("pets").mean is None
    assert PackedDataset.open(data / "pets").manifest.split is None


@pytest.mark.parametrize("name", ["2024", "1e5", "null", "true", "pets.v2", "a-b_c.1", "INF", "0x1f"])
def test_use_of_names_a_data_set_whatever_it_is_called(data: Path, name: str) -> None:
    import shlex

    shutil.copytree(data / "pets", data / name)
    assert name in packed_names()
    (word,) = shlex.split(use_of(name))
    assert compose_train([word, *_TRAIN]).dataset.name == name
