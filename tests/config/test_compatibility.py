"""When settings that another version has written down are those of now."""

import dataclasses
import json
from pathlib import Path

import pytest

from kdhpc.config import compatibility, renamed
from kdhpc.config.compatibility import (
    FIRST_KEYS,
    NOT_THERE,
    differences,
    meaning_of_nothing,
    newer_keys,
    readable,
    under_first_names,
    written,
)
from kdhpc.config.compose import compose_search
from kdhpc.config.document import read_config, to_document, write_config
from kdhpc.config.renamed import first_name
from kdhpc.config.schema import DatasetConfig, NetworkConfig, ObjectiveConfig, SearchConfig, TrainConfig, TrainingConfig
from kdhpc.errors import ConfigError

GROUPS = {"dataset": DatasetConfig, "network": NetworkConfig, "objective": ObjectiveConfig, "training": TrainingConfig}


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version without ``training.gone``, with ``training.toy``, and where ``training.turned`` is not as before."""
    toy = dataclasses.make_dataclass(
        "Toy",
        [("toy", int, dataclasses.field(default=1)), ("turned", str, dataclasses.field(default="new"))],
        bases=(TrainingConfig,),
        frozen=True,
        kw_only=True,
    )
    for config in (SearchConfig, TrainConfig):
        monkeypatch.setitem(config.__annotations__, "training", toy)
    monkeypatch.setattr(compatibility, "RETIRED", {"training.gone": 3, "network.gone": "x"})
    monkeypatch.setattr(compatibility, "BEFORE", {"training.turned": "old"})


def test_every_key_that_came_later_means_something_where_it_is_not_there() -> None:
    later = {
        first_name(f"{group}.{field.name}") for group, kind in GROUPS.items() for field in dataclasses.fields(kind)
    } - FIRST_KEYS
    assert [key for key in later if meaning_of_nothing(key) == NOT_THERE] == []


def test_first_keys_are_those_of_the_first_version_or_retired() -> None:
    fixture = Path(__file__).parents[1] / "upgrades/fixtures/0.1.0-0468066/runs/train/graph/seed0/settings.json"
    keys = {key for key in json.loads(fixture.read_text()) if key.split(".")[0] in GROUPS}
    assert keys - {"dataset.checksum"} | {"training.evaluate"} == FIRST_KEYS
    known = {
        first_name(f"{group}.{field.name}") for group, kind in GROUPS.items() for field in dataclasses.fields(kind)
    }
    assert known | compatibility.RETIRED.keys() >= FIRST_KEYS


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize(
    ("was", "now", "found"),
    [
        ({}, {"training.toy": 1}, {}),
        ({}, {"training.toy": 2}, {"training.toy": (1, 2)}),
        ({"training.toy": 2}, {}, {"training.toy": (2, 1)}),
        ({}, {"training.turned": "old"}, {}),
        ({}, {"training.turned": "new"}, {"training.turned": ("old", "new")}),
        ({"training.gone": 3}, {}, {}),
        ({"training.gone": 4}, {}, {"training.gone": (4, 3)}),
        ({"training.gamma": 0.1}, {}, {}),
        ({"graph": "a"}, {}, {"graph": ("a", NOT_THERE)}),
        ({"training.epochs": 3}, {"training.epochs": 4}, {"training.epochs": (3, 4)}),
    ],
)
def test_differences(was: dict[str, object], now: dict[str, object], found: dict[str, tuple[object, object]]) -> None:
    assert differences(was, now) == found


@pytest.mark.usefixtures("changed")
def test_newer_keys_are_those_of_a_group_that_has_never_had_them() -> None:
    keys = ["training.toy", "training.gone", "training.epochs", "training.b", "training.a", "graph", "teacher.weights"]
    assert newer_keys(keys) == ["training.a", "training.b"]


@pytest.mark.usefixtures("changed")
def test_written_leaves_out_what_says_nothing_new_and_keeps_first_keys() -> None:
    values = {"epochs": 300, "gamma": 0.1, "toy": 1, "turned": "old"}
    assert written("training", values) == {"epochs": 300, "gamma": 0.1}
    assert written("training", {**values, "toy": 2, "turned": "new"}) == {
        **{"epochs": 300, "gamma": 0.1},
        **{"toy": 2, "turned": "new"},
    }


def test_written_keeps_a_first_key_that_is_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "RETIRED", {"training.gamma": 0.1})
    assert written("training", {"epochs": 300}) == {"epochs": 300, "gamma": 0.1}
    assert written("network", {"name": "resnet8"}) == {"name": "resnet8"}


def test_written_is_all_there_is_today() -> None:
    config = compose_search(["study=quickstart"])
    for group, kind in GROUPS.items():
        document = to_document(getattr(config, group))
        first = {field.name for field in dataclasses.fields(kind) if f"{group}.{field.name}" in FIRST_KEYS}
        assert written(group, document) == {name: value for name, value in document.items() if name in first}


@pytest.mark.usefixtures("changed")
def test_readable_drops_what_is_retired_and_says_what_was_done_before() -> None:
    assert readable({"training": {"gone": 4, "epochs": 3}, "network": {"gone": "x"}}) == {
        "training": {"turned": "old", "epochs": 3},
        "network": {},
    }
    with pytest.raises(ValueError, match=r'has network.gone="y", this kdhpc has no such key: it does as "x"'):
        readable({"network": {"gone": "y"}})


@pytest.mark.usefixtures("changed")
def test_read_config_of_an_earlier_and_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config = compose_search(["study=quickstart"])
    write_config(config, path)
    text = path.read_text()
    # This version wrote that it does as the newest one; an earlier one has neither key, and nothing of ``worker``.
    old = text.replace("  toy: 1\n", "").replace("  turned: new\n", "  gone: 3\n")
    path.write_text(old[: old.index("worker:")] + old[old.index("cluster:") :])
    training = dataclasses.replace(config.training, turned="old")
    assert read_config(SearchConfig, path) == dataclasses.replace(config, training=training)
    path.write_text(text.replace("training:\n", "training:\n  later: 1\n"))
    with pytest.raises(
        ConfigError, match=r"config\.yaml was made by a newer kdhpc, this one does not know training\.later"
    ):
        read_config(SearchConfig, path)


def test_key_that_was_renamed_is_written_as_before_and_has_its_first_name_in_digests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(renamed, "RENAMED_KEYS", {"training.gamma": "training.decay"})
    # Always written, as it was there at first.
    assert written("training", {"decay": 0.1, "epochs": 3}) == {"decay": 0.1, "epochs": 3}
    assert under_first_names("training", {"decay": 0.1, "epochs": 3}) == {"gamma": 0.1, "epochs": 3}
    assert under_first_names("network", {"decay": 0.1}) == {"decay": 0.1}
