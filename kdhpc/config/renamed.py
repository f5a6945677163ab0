"""Config keys that have another name now. The old names are still read: as overrides, in config files and in documents.

Settings that a run or a study has written down are compared under the new names. Digests of settings are made under the
first names: so a checkpoint or a result from before a key was renamed is known by the digest that it has.
"""

import functools
import re
import sys
from collections.abc import Mapping, Sequence

RENAMED_KEYS = {"worker.seats": "worker.concurrent_trials"}
"""Each old name with the name of today, which is in the same group. Of several old names of one key the first comes
first."""
_UNSET = "(not set)"


def renamed_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides as they were given, with the new names of their keys."""
    return [_renamed(text) for text in overrides]


def with_old_keys(defaults: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """Defaults for OmegaConf in which the old names may be set, too.

    A new name that no file sets takes the value of the old one: so whoever sets the new name is always heard.
    """
    groups = {name: dict(group) for name, group in defaults.items()}
    for old, new in RENAMED_KEYS.items():
        (name, old_key), (_, new_key) = old.split("."), new.split(".")
        if new_key in groups.get(name, ()):
            groups[name] |= {old_key: _UNSET, new_key: f"${{{old}}}"}
    return groups


def renamed_document(document: Mapping[str, object]) -> dict[str, object]:
    """The groups of a config with new names, whether they were composed from :func:`with_old_keys` or stored."""
    groups = dict(document)
    for old, new in RENAMED_KEYS.items():
        (name, old_key), (_, new_key) = old.split("."), new.split(".")
        group = groups.get(name)
        if not isinstance(group, Mapping) or old_key not in group:
            continue
        values = {key: value for key, value in group.items() if key != old_key}
        if group[old_key] != _UNSET:
            _tell(old, new)
            values.setdefault(new_key, group[old_key])
        elif values.get(new_key) == _UNSET:
            del values[new_key]
        groups[name] = values
    return groups


def name_today(key: str) -> str:
    """The name that a key of any version has now: ``worker.concurrent_trials`` for ``worker.seats``."""
    return RENAMED_KEYS.get(key, key)


def first_name(key: str) -> str:
    """The name that a key had at first: ``worker.seats`` for ``worker.concurrent_trials``."""
    return next((old for old, new in RENAMED_KEYS.items() if new == key), key)


def _renamed(override: str) -> str:
    key = re.split("[=@:]", override.lstrip("+~"), maxsplit=1)[0]
    if key not in RENAMED_KEYS:
        return override
    _tell(key, RENAMED_KEYS[key])
    return override.replace(key, RENAMED_KEYS[key], 1)


@functools.cache
def _tell(old: str, new: str) -> None:
    """Once in a process: a config is often composed more than once."""
    print(f"{old} is called {new} now: use the new name", file=sys.stderr)
