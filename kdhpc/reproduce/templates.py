"""Names in braces in the files of ``configs/reproduce``, and what they stand for."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from kdhpc.errors import ConfigError, nearest

_NAME = re.compile(r"\{(\w+)\}")
_DEEPEST = 10

Names = Mapping[str, object]
"""What names stand for: texts, numbers, or lists of texts. A text may have names in it again."""


def text(value: object, names: Names, *, origin: str) -> str:
    """A text with every ``{name}`` replaced.

    Raises:
        ConfigError: a name is not known, stands for a list, or for itself.
    """
    if value is None or isinstance(value, (list, dict, tuple)):
        raise ConfigError(f"{origin}: {value!r} stands where a text should")
    found = str(value)
    for _ in range(_DEEPEST):
        replaced = _NAME.sub(lambda match: _one(match[1], names, origin), found)
        if replaced == found and not _NAME.search(found):
            return found
        found = replaced
    raise ConfigError(f"{origin}: {value!r} never comes to an end: a name in it stands for itself")


def words(values: object, names: Names, *, origin: str, depth: int = 0) -> tuple[str, ...]:
    """A list of texts, filled in. An entry that is a single ``{name}`` of a list stands for the texts of that list.

    Args:
        values: The list.
        names: What names stand for.
        origin: The file, for messages.
        depth: In how many other lists this one stands.

    Raises:
        ConfigError: as :func:`text`, or no list.
    """
    if depth > _DEEPEST:
        raise ConfigError(f"{origin}: {values!r} never comes to an end: a name in it stands for itself")
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConfigError(f"{origin}: {values!r} is no list: write [{values}]")
    found: list[str] = []
    for value in values:
        inner = _whole(value, names)
        if isinstance(inner, (list, tuple)):
            found += words(inner, names, origin=origin, depth=depth + 1)
        else:
            found.append(text(value, names, origin=origin))
    return tuple(found)


def each_of(lists: object, names: Names, *, origin: str) -> Iterator[dict[str, object]]:
    """The names of every combination of some lists of mappings.

    Raises:
        ConfigError: one of them is no such list.
    """
    chosen: list[list[dict[str, object]]] = []
    for name in lists if isinstance(lists, list) else [lists]:
        entries = names.get(str(name))
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ConfigError(f"{origin}: each: {name!r} is no list of {{name: value}} in this scale")
        chosen.append(entries)
    for combination in itertools.product(*chosen):
        yield {key: value for entry in combination for key, value in entry.items()}


def _whole(value: object, names: Names) -> object:
    """What a single ``{name}`` stands for, through other names; anything else stands for itself."""
    for _ in range(_DEEPEST):
        match = _NAME.fullmatch(value) if isinstance(value, str) else None
        if match is None or match[1] not in names:
            break
        value = names[match[1]]
    return value


def _one(name: str, names: Names, origin: str) -> str:
    if name not in names:
        raise ConfigError(f"{origin}: nothing is called {{{name}}}: {nearest(name, names)}")
    value = names[name]
    if isinstance(value, (list, dict, tuple)):
        raise ConfigError(f"{origin}: {{{name}}} is a list, which has to be an entry of its own")
    return str(value)
