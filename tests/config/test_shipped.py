"""The numbers of the shipped configs: those of the paper's section 5.1 and of the authors' code, written down again."""

import dataclasses

import pytest

from kdhpc.config.compose import compose_train
from kdhpc.config.folders import config_names
from kdhpc.config.schema import DatasetConfig, TrainingConfig

FINE_GRAINED = {
    "image_size": 224,
    "augmentation": "resized_crop",
    "scale": (0.08, 1.0),
    "ratio": (1.0, 1.3),
    "resize": 256,
    "flip": True,
    "mean": None,
    "std": None,
    "validation_fraction": 0.5,
}
CIFAR = {
    "image_size": 32,
    "augmentation": "pad_crop",
    "pad": 4,
    "flip": True,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "validation_fraction": 0.2,
}
DATASETS = {
    "stanford_dogs": FINE_GRAINED,
    "stanford_cars": FINE_GRAINED,
    "cub200": FINE_GRAINED,
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    # Not the paper's.
    "fashion_mnist": {"image_size": 28, "augmentation": "pad_crop", "pad": 2, "validation_fraction": 0.2},
}
PAPER = TrainingConfig(
    epochs=300,
    batch_size=16,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    milestones=(150, 225),
    gamma=0.1,
    evaluate="every_epoch",
)
TRAININGS = {
    "paper": PAPER,
    "paper_cifar": dataclasses.replace(PAPER, batch_size=128),
    # Not the paper's.
    "short": dataclasses.replace(PAPER, epochs=4, batch_size=32, learning_rate=0.05, milestones=(3,)),
    "ktg": dataclasses.replace(
        PAPER, epochs=200, batch_size=64, nesterov=True, weight_decay=5e-4, milestones=(60, 120, 180)
    ),
    "adamw_cosine": dataclasses.replace(
        PAPER,
        batch_size=128,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_epochs=5,
        label_smoothing=0.1,
    ),
}


def test_every_shipped_config_is_in_the_table() -> None:
    assert set(config_names("dataset")) == set(DATASETS)
    assert set(config_names("training")) == set(TRAININGS)


@pytest.mark.parametrize("name", DATASETS)
def test_dataset_has_the_values_of_the_table(name: str) -> None:
    config = compose_train([f"dataset={name}", "network=resnet18"]).dataset
    assert config == DatasetConfig(**{"name": name, "subset": None, **DATASETS[name]})


@pytest.mark.parametrize("name", TRAININGS)
def test_training_has_the_values_of_the_table(name: str) -> None:
    config = compose_train(["dataset=cifar10", "network=resnet20", f"training={name}"]).training
    assert config == dataclasses.replace(TRAININGS[name], eval_batch_size=config.eval_batch_size)


@pytest.mark.parametrize("name", config_names("network"))
def test_network_has_the_crops_of_its_kind(name: str) -> None:
    config = compose_train(["dataset=cifar10", f"network={name}"]).network
    assert (config.name, config.residual_attention) == (name, None)
    assert config.crops == ((3, 7, 11) if name.startswith("abn_") else (3, 5, 7))


def test_objective_is_that_of_the_authors_code() -> None:
    config = compose_train(["dataset=cifar10", "network=resnet20"]).objective
    assert (config.attention_reduction, config.unlearned, config.pretrained) == ("mean", "keep", None)
