"""Settings that another version of kdhpc has written down: the one place that says when they are the settings of now.

Studies, checkpoints and final trainings write down the settings that their numbers depend on, and compare them when
they go on. A setting is a JSON value with a key, such as ``training.epochs``. Between two versions of kdhpc, keys may
have come and gone:

- A key that is not there means what was done before it existed. That is its default in ``schema.py``, unless ``BEFORE``
  says otherwise.
- A key that this version has no longer must have the value in ``RETIRED``: what is done today.
- A key that this version has never had is a newer version's, and an error.

Adding a key: give it a default that does what was done before, or an entry in ``BEFORE``. Neither may change later.
Removing a key: put it into ``RETIRED``. Renaming one: put both names into ``RENAMED_KEYS`` of ``renamed.py``.
``FIRST_KEYS`` stays as it is, for ever.
"""

import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass

from kdhpc.config.renamed import first_name
from kdhpc.config.schema import SearchConfig, TrainConfig

Groups: typing.TypeAlias = Mapping[str, Mapping[str, object]]
"""Groups of a config, as JSON values by their names in the group: ``{"training": {"epochs": 4}}``."""

RETIRED: Mapping[str, object] = {}
"""Keys that this version has no longer, each with the value that means what is done today."""
BEFORE: Mapping[str, object] = {}
"""Keys that came later and whose default is not what was done before, each with the value that is."""
NOT_THERE = "not there"
"""Stands for the value of a key that is not there and means nothing then."""

_FIRST = {
    "dataset": "name image_size augmentation validation_fraction pad flip scale ratio resize mean std subset "
    "split_seed",
    "network": "name crops residual_attention",
    "objective": "attention_reduction unlearned pretrained",
    "training": "epochs batch_size eval_batch_size learning_rate momentum weight_decay milestones gamma evaluate",
}
FIRST_KEYS = frozenset(f"{group}.{name}" for group, names in _FIRST.items() for name in names.split())
"""Keys of version 0.1.0 that numbers depend on, under their names in it. They are always written down; later ones only
where they are not at their default."""
# A finished run is read by what these say. Other groups are compared by whoever goes on with them.
_OF_NETWORKS = ("dataset", "network")


def written(group: str, values: Mapping[str, object]) -> dict[str, object]:
    """A group of a config as it is written down, compared, and made digests of.

    Every version writes the same for the same, so that digests stay what they were: keys that came after the first
    version are left out while they mean what was done before, and those of the first version stay when they retire.
    """
    said = {
        name: value
        for name, value in values.items()
        if first_name(key := f"{group}.{name}") in FIRST_KEYS or value != meaning_of_nothing(key)
    }
    return said | {name: RETIRED[f"{group}.{name}"] for name in _names(group, FIRST_KEYS & RETIRED.keys())}


def under_first_names(group: str, values: Mapping[str, object]) -> dict[str, object]:
    """A group with the names that its keys had at first, which digests are made of."""
    return {first_name(f"{group}.{name}").partition(".")[2]: value for name, value in values.items()}


def meaning_of_nothing(key: str) -> object:
    """The value that a key has where it is not there; `NOT_THERE`: it has none."""
    for values in (RETIRED, BEFORE, _defaults()):
        if key in values:
            return values[key]
    return NOT_THERE


def differences(was: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """The settings that differ, by key, each with its value then and now."""
    found: dict[str, tuple[object, object]] = {}
    for key in sorted({*was, *now}):
        then, today = (one[key] if key in one else meaning_of_nothing(key) for one in (was, now))
        if then != today:
            found[key] = (then, today)
    return found


def newer_keys(keys: Iterable[str]) -> list[str]:
    """Those that only a newer version can have written."""
    known = {*_defaults(), *FIRST_KEYS, *RETIRED}
    groups = {key.partition(".")[0] for key in known}
    return sorted(key for key in keys if key not in known and "." in key and key.partition(".")[0] in groups)


def newer(what: str, keys: Iterable[str]) -> str:
    """The message about something that a newer version has made."""
    return f"{what} was made by a newer kdhpc, this one does not know {', '.join(keys)}: use that version"


def readable(groups: Groups) -> dict[str, dict[str, object]]:
    """Groups that another version has written, as this one reads them.

    Raises:
        ValueError: they say what this version does not know, or does not do; in words that follow a name.
    """
    if unknown := newer_keys(f"{group}.{name}" for group in groups for name in groups[group]):
        raise ValueError(newer("", unknown).strip())
    for key, value in (
        (f"{group}.{name}", groups[group][name]) for group in _OF_NETWORKS for name in groups.get(group, {})
    ):
        if key in RETIRED and value != RETIRED[key]:
            raise ValueError(
                f"has {key}={json.dumps(value)}, this kdhpc has no such key: it does as {json.dumps(RETIRED[key])}"
            )
    return {
        group: {name: BEFORE[f"{group}.{name}"] for name in _names(group, BEFORE)}
        | {name: value for name, value in values.items() if f"{group}.{name}" not in RETIRED}
        for group, values in groups.items()
    }


def _names(group: str, keys: Iterable[str]) -> list[str]:
    """Those of a group, without it."""
    return [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")]


def _defaults() -> dict[str, object]:
    """Every key of this version with its default as a JSON value; `NOT_THERE`: it has none."""
    groups = {**typing.get_type_hints(SearchConfig), **typing.get_type_hints(TrainConfig)}
    return {
        f"{group}.{field.name}": NOT_THERE if field.default is MISSING else json.loads(json.dumps(field.default))
        for group, kind in groups.items()
        if is_dataclass(kind)
        for field in fields(kind)
    }
