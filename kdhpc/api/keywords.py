"""Keyword arguments of Python users, which are the config's own keys, as overrides."""

import numbers
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

from kdhpc.config.document import defaults
from kdhpc.errors import ConfigError, nearest

_OWN_ARGUMENTS = ("dataset.name", "network.name", "network.nodes", "run.graph", "study.networks")
"""Keys that arguments of their own stand for."""


def to_overrides(kind: type, keywords: Mapping[str, object]) -> list[str]:
    """``epochs=10`` as ``training.epochs=10``, for each; ``training="short"`` chooses a config of a group.

    Args:
        kind: The dataclass of the config.
        keywords: Keys of the config without their group, and values of Python's.

    Raises:
        ConfigError: a key that does not exist, with the nearest that does, or a value that no config can have.
    """
    keys = keys_by_name(kind)
    groups = defaults(kind)
    overrides = []
    for name, value in keywords.items():
        key = keys.get(name)
        if key is None and name in groups and isinstance(value, str):
            overrides.append(f"{name}={value}")
        elif key is None:
            raise ConfigError(f"unknown argument {name!r}: {nearest(name, {*keys, *groups})}")
        else:
            overrides.append(f"{key}={written(key, value)}")
    return overrides


def keys_by_name(kind: type) -> dict[str, str]:
    """The keys of a config by their last word, where no other key has the same."""
    found: dict[str, list[str]] = {}
    for group, fields in defaults(kind).items():
        for field in fields:
            key = f"{group}.{field}"
            if key not in _OWN_ARGUMENTS:
                found.setdefault(field, []).append(key)
    return {name: keys[0] for name, keys in found.items() if len(keys) == 1}


def written(key: str, value: object) -> str:
    """A value as overrides write it.

    Raises:
        ConfigError: no config has such a value.
    """
    if isinstance(value, Enum):
        return written(key, value.value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, Path)):
        # In Hydra's grammar a backslash means itself, unless a quote comes after it.
        escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), str(value))
        return f"'{escaped}'"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    if isinstance(value, Sequence):
        return f"[{','.join(written(key, item) for item in value)}]"
    raise ConfigError(f"{key} cannot be a {type(value).__name__}: give a number, a text, a list, True, False or None")
