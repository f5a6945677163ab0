"""Choices in overrides, taken apart as Hydra's multirun would."""

import pytest

from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.sweep import combinations
from kdhpc.errors import ConfigError

_TRAIN = ("dataset=cub200", "network=resnet18", "run.num_nodes=1")


def test_combinations_are_all_of_them_in_order():
    assert combinations(["run.graph='a/b=1.json',dml", "training.milestones=[1,2]", "run.seed=range(0,2)"]) == (
        ("run.graph='a/b=1.json'", "training.milestones=[1,2]", "run.seed=0"),
        ("run.graph='a/b=1.json'", "training.milestones=[1,2]", "run.seed=1"),
        ("run.graph=dml", "training.milestones=[1,2]", "run.seed=0"),
        ("run.graph=dml", "training.milestones=[1,2]", "run.seed=1"),
    )


def test_combinations_without_choices_are_one():
    assert combinations(["dataset=cub200"]) == (("dataset=cub200",),)


def test_combinations_of_what_cannot_be_read_is_one_line():
    with pytest.raises(ConfigError, match=r"'run\.graph=\[1' cannot be read: run\.graph takes text") as error:
        combinations(["run.graph=[1"])
    assert "\n" not in str(error.value)


def test_combinations_compose():
    config = compose_train([*combinations(["run.graph='a b.json',dml"])[0], *_TRAIN])
    assert config.run.graph == "a b.json"


def test_compose_pretrained_weights_are_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"")
    overrides = ["objective.unlearned=pretrained", "objective.pretrained=w.safetensors"]
    for config in (compose_train([*_TRAIN, *overrides]), compose_search(["study=quickstart", *overrides])):
        assert config.objective.pretrained == str(tmp_path / "w.safetensors")


def test_compose_pretrained_weights_that_are_not_there_are_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"objective\.pretrained=w\.safetensors does not exist.*kdhpc train"):
        compose_search(["study=quickstart", "objective.unlearned=pretrained", "objective.pretrained=w.safetensors"])
