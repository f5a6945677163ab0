"""Config keys under their old names: read everywhere, and each told once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kdhpc.config import renamed
from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.document import read_config, to_document
from kdhpc.config.renamed import RENAMED_KEYS, renamed_document
from kdhpc.config.schema import SearchConfig
from kdhpc.config.sweep import combinations
from kdhpc.errors import ConfigError
from kdhpc.final import settings as run_settings
from kdhpc.study import definition as definitions
from tests.study.made import definition

TOLD = "worker.seats is called worker.concurrent_trials now: use the new name\n"


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    renamed._tell.cache_clear()
    yield
    renamed._tell.cache_clear()


def trials_at_once(*overrides: str, config_dir: Path | None = None) -> object:
    return compose_search(["study=quickstart", *overrides], config_dir=config_dir).worker.concurrent_trials


def own_config(folder: Path, text: str) -> Path:
    (folder / "study").mkdir(exist_ok=True)
    (folder / "study" / "mine.yaml").write_text(f"# @package _global_\n{text}\n", encoding="utf-8")
    return folder


def test_renamed_keys_exist_under_their_new_names_alone() -> None:
    config = to_document(compose_search(["study=quickstart"]))
    for old, new in RENAMED_KEYS.items():
        (group, old_key), (new_group, new_key) = old.split("."), new.split(".")
        assert group == new_group
        assert new_key in config[group]
        assert old_key not in config[group]


@pytest.mark.parametrize("override", ["worker.seats=3", "++worker.seats=3"])
def test_override_of_an_old_name_is_read_and_told_once(capsys: pytest.CaptureFixture[str], override: str) -> None:
    assert trials_at_once(override) == trials_at_once(override) == 3
    assert capsys.readouterr() == ("", TOLD)


def test_override_of_the_new_name_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert trials_at_once() == "auto"
    assert trials_at_once("worker.concurrent_trials=3") == 3
    assert capsys.readouterr() == ("", "")


def test_override_of_an_old_name_that_is_wrong_is_refused_under_the_new_one() -> None:
    with pytest.raises(ConfigError, match=r"^worker.concurrent_trials='many' is not allowed"):
        trials_at_once("worker.seats=many")
    with pytest.raises(ConfigError, match=r"^worker.concurrent_trials=1,2 is not allowed: give one value"):
        trials_at_once("worker.seats=1,2")


@pytest.mark.parametrize("value", [4, "auto"])
def test_config_file_with_an_old_name_is_read_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    own_config(tmp_path, f"defaults: [quickstart]\nworker:\n  seats: {value}")
    assert compose_search(["study=mine"], config_dir=tmp_path).worker.concurrent_trials == value
    assert capsys.readouterr() == ("", TOLD)


@pytest.mark.parametrize("key", ["worker.seats", "worker.concurrent_trials"])
@pytest.mark.parametrize("value", [2, "auto"])
def test_override_beats_a_config_file_with_an_old_name(tmp_path: Path, key: str, value: object) -> None:
    own_config(tmp_path, "defaults: [quickstart]\nworker:\n  seats: 4")
    assert compose_search(["study=mine", f"{key}={value}"], config_dir=tmp_path).worker.concurrent_trials == value


def test_sweep_over_training_seeds_has_no_old_name_to_rename(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("dataset=fashion_mnist", "network=resnet8", "run.graph=dml", "run.num_nodes=2", "run.seed=0")
    assert combinations(overrides) == (overrides,)
    compose_train(overrides)
    assert capsys.readouterr() == ("", "")


def test_sweep_choices_of_a_renamed_key_have_the_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "RENAMED_KEYS", {"training.rate": "training.learning_rate"})
    choices = (("training.learning_rate=0.1",), ("training.learning_rate=0.2",))
    assert combinations(["training.rate=0.1,0.2"]) == choices


def test_frozen_config_with_an_old_name_is_read_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose_search(["study=quickstart", "worker.concurrent_trials=3"])
    document = to_document(config)
    document["worker"]["seats"] = document["worker"].pop("concurrent_trials")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert read_config(SearchConfig, path) == config
    assert capsys.readouterr() == ("", TOLD)


def test_study_definition_with_an_old_name_is_read_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(renamed, "RENAMED_KEYS", {"training.rounds": "training.epochs"})
    made = definition()
    old = definition(settings=json.dumps({"training": {"rounds": 4, "batch_size": 16}}))
    assert definitions.differences(definitions.from_json(definitions.to_json(old), name="tiny"), made) == []
    assert capsys.readouterr() == ("", "training.rounds is called training.epochs now: use the new name\n")


def test_settings_of_a_run_with_an_old_name_are_those_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a version that calls ``training.gamma`` another name: its settings are equal, and so is their digest."""
    fixture = Path(__file__).parents[1] / "upgrades/fixtures/0.1.0-0468066/runs/train/graph/seed0"
    settings = run_settings.read_settings(fixture / "settings.json")
    monkeypatch.setattr(renamed, "RENAMED_KEYS", {"training.gamma": "training.decay"})
    now = {"training.decay" if key == "training.gamma" else key: value for key, value in settings.items()}
    assert run_settings.read_settings(fixture / "settings.json") == now
    assert run_settings.digest(now) == json.loads((fixture / "result.json").read_text())["settings"]
    run_settings.check_same_settings(now, run_settings.read_settings(fixture / "settings.json"), fixture)
    with pytest.raises(ConfigError, match=r"training\.decay was 0\.1, is 0\.5"):
        run_settings.check_same_settings({**now, "training.decay": "0.5"}, now, fixture)
    assert capsys.readouterr() == ("", "")


def test_document_with_both_names_keeps_the_new_one() -> None:
    document = {"worker": {"seats": 3, "concurrent_trials": 2}, "study": {}}
    assert renamed_document(document) == {"worker": {"concurrent_trials": 2}, "study": {}}
