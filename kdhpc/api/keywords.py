"""Python keyword arguments as overrides of the config: ``epochs=10`` becomes ``training.epochs=10``."""

import numbers
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

from kdhpc.config.document import defaults, root_defaults
from kdhpc.errors import ConfigError, nearest

_OWN_ARGUMENTS = ("dataset.name", "network.name", "network.nodes", "run.graph", "study.networks")
"""Keys that are not keywords, because the functions have other arguments for them."""


def to_overrides(kind: type, keywords: Mapping[str, object]) -> list[str]:
    """Convert keyword arguments to overrides.

    A keyword is a key of the config without its group (``epochs=10``), or the name of a group, which chooses a config
    file of that group (``training="short"``).

    Args:
        kind: The dataclass of the config.
        keywords: The keyword arguments.

    Raises:
        ConfigError: there is no such key, and the message names the nearest; or no config can have the value.
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
    """The keys of a config by their names without the group. Names that several groups have are left out."""
    found: dict[str, list[str]] = {}
    for group, fields in defaults(kind).items():
        for field in fields:
            key = f"{group}.{field}"
            if key not in _OWN_ARGUMENTS:
                found.setdefault(field, []).append(key)
    for key in root_defaults(kind):
        found.setdefault(key, []).append(key)
    return {name: keys[0] for name, keys in found.items() if len(keys) == 1}


def written(key: str, value: object) -> str:
    """A value in the grammar of overrides: ``null``, ``true``, ``'text'``, ``[1,2]``, ...

    Raises:
        ConfigError: no config can have a value of that type.
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
