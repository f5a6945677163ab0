"""Final trainings under another recipe than the paper's: every key counts, and pieces come to the same weights."""

import json

import pytest

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError
from kdhpc.methods.differences import facts_of
from tests.final.test_final import StopAfter, same, train, weights_of

ADAMW = (
    *("training.optimizer=adamw", "training.learning_rate=0.001", "training.schedule=cosine"),
    *("training.warmup_epochs=1", "training.label_smoothing=0.1", "dataset.padding_mode=reflect"),
    "dataset.augmentations=[RandAugment,RandomErasing]",
)


@pytest.mark.parametrize(
    "method", [("run.graph=dml", "run.num_nodes=2"), ("run.graph=one", "run.num_nodes=2")], ids=["graph", "one"]
)
def test_train_final_of_a_recipe_stopped_anywhere_ends_with_the_same_weights_and_says_what_it_was(place, method):
    whole, _ = train(place.config(*method, *ADAMW, "run.name=whole"))
    result = None
    while result is None:
        result, _ = train(place.config(*method, *ADAMW, "run.name=pieces"), stop=StopAfter(3))
    assert same(weights_of("pieces"), weights_of("whole"))
    assert result.settings == whole.settings
    settings = json.loads(RunPaths.of("whole", 0).settings.read_text())
    assert (settings["training.optimizer"], settings["training.schedule"]) == ("adamw", "cosine")
    assert settings["dataset.augmentations"] == ["RandAugment", "RandomErasing"]
    assert "training.nesterov" not in settings, "a default of today is written as nothing"
    with pytest.raises(ConfigError, match=r"training\.label_smoothing was 0\.1, is 0\.2"):
        train(place.config(*method, *ADAMW, "training.label_smoothing=0.2", "run.name=whole", "run.seed=1"))


def test_provenance_tells_the_recipe(place):
    facts = facts_of(place.config("run.graph=dml", "run.num_nodes=2", *ADAMW), "0")
    assert facts["config.training.optimizer"] == "adamw"
    assert facts["config.dataset.augmentations"] == '["RandAugment", "RandomErasing"]'


def test_student_of_a_recipe_learns(place):
    train(place.config("run.graph=dml", "run.num_nodes=2", "run.name=teacher"))
    student = ("run.graph=student", "run.teacher=runs/train/teacher/seed0")
    ends = []
    for name, recipe in (("plain", ()), ("smooth", ("training.label_smoothing=0.2",)), ("fast", ADAMW)):
        train(place.config(*student, *recipe, f"run.name={name}"))
        ends.append(weights_of(name))
    assert not any(same(ends[first], ends[second]) for first, second in ((0, 1), (0, 2), (1, 2)))
