"""Keyword arguments are the config's own keys."""

from pathlib import Path

import numpy as np
import pytest

from kdhpc.api.keywords import keys_by_name, to_overrides, written
from kdhpc.config.compose import compose_train
from kdhpc.config.schema import SearchConfig, TrainConfig
from kdhpc.errors import ConfigError
from kdhpc.graph.spec import Gate

_HERE = ["dataset=cifar10", "network=resnet20", "run.graph=dml"]


def test_each_key_stands_for_one_of_the_config() -> None:
    keys = keys_by_name(TrainConfig)
    wanted = ("epochs", "subset", "batch_size", "learning_rate", "crops", "seed", "device", "name")
    assert [keys[name] for name in wanted] == [
        *("training.epochs", "dataset.subset", "training.batch_size", "training.learning_rate"),
        *("network.crops", "run.seed", "device.device", "run.name"),
    ]
    assert keys_by_name(SearchConfig)["seed"] == "study.seed"


def test_values_arrive_as_they_are() -> None:
    text = r"it's a \path, {x} [y] =z"
    given = {
        "epochs": np.int64(7),
        "learning_rate": np.float32(0.25),
        "crops": (3, 5),
        "flip": False,
        "subset": None,
        "teacher": Path(f"/{text}"),
        "name": "tried",
        "training": "short",
    }
    config = compose_train([*_HERE, *to_overrides(TrainConfig, given)])
    assert config.training.epochs == 7
    assert config.training.learning_rate == 0.25
    assert config.training.batch_size == 32
    assert config.network.crops == (3, 5)
    assert config.dataset.flip is False
    assert config.dataset.subset is None
    assert config.run.teacher == f"/{text}"
    for ending in ("\\", "\\\\", "\\'", "'", "'\\"):
        words = to_overrides(TrainConfig, {"teacher": f"/a{ending}"})
        assert compose_train([*_HERE, *words]).run.teacher == f"/a{ending}"
    assert written("gates", list(Gate)) == "['through','cutoff','linear','correct']"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epoch": 3}, "unknown argument 'epoch': did you mean 'epochs'?"),
        ({"lr": 3}, "unknown argument 'lr': "),
        ({"epochs": {3}}, "training.epochs cannot be a set: give a number, a text, a list, True, False or None"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        to_overrides(TrainConfig, given)
    assert words in str(caught.value)
