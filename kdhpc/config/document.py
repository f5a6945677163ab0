"""Configs as plain documents (JSON and YAML values), and back, checked field by field."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

import dacite
import yaml

from kdhpc.config.compatibility import readable
from kdhpc.config.renamed import renamed_document
from kdhpc.errors import ConfigError, closest, nearest
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.graph.names import OpenName
from kdhpc.graph.plugins import load_plugins

Group = TypeVar("Group")
Config = TypeVar("Config")


def to_document(config: object) -> dict[str, object]:
    """A config (or one of its groups) as JSON values: enums as their values, tuples as lists."""
    fields = dataclasses.fields(config)  # type: ignore[arg-type]  # any of the dataclasses of schema.py
    return {field.name: _plain(getattr(config, field.name)) for field in fields}


def flatten(prefix: str, document: Mapping[str, object]) -> dict[str, str | int | float]:
    """``{"training": {"epochs": 4}}`` as ``{"config.training.epochs": 4}``; anything but text and numbers as JSON."""
    flat: dict[str, str | int | float] = {}
    for key, value in document.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            flat |= flatten(name, value)
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            flat[name] = value
        else:
            flat[name] = json.dumps(value)
    return flat


def parse_config(kind: type[Config], document: object, *, imports: bool = True) -> Config:
    """The config (such as ``SearchConfig``) that a document holds.

    Args:
        kind: Its dataclass.
        document: Groups, and keys that are in no group.
        imports: Import the plug-ins that it names: values of the groups may be theirs.

    Raises:
        ConfigError: a group or key is missing or unknown, or a value is not allowed; the message names it. Or a plug-in
            cannot be imported.
    """
    groups, keys = _groups(kind), _root_keys(kind)
    given = renamed_document(_mapping("the config", document))
    _check_names("config group", given, groups | keys, required=_required(kind))
    values = {name: _parse_value(name, hint, given[name]) for name, hint in keys.items() if name in given}
    if imports:
        load_plugins(_names_of_plugins(values.get("plugins", ())))
    there = {name: group for name, group in groups.items() if name in given}
    return kind(**values, **{name: parse_group(name, group, given[name]) for name, group in there.items()})


def parse_group(name: str, group: type[Group], document: object) -> Group:
    """One group of the config; ``name`` is what messages call it.

    Raises:
        ConfigError: as :func:`parse_config`.
    """
    given = _mapping(f"config group {name!r}", document)
    hints = typing.get_type_hints(group)
    _check_names("config key", given, hints, prefix=f"{name}.", required=_required(group))
    return group(**{key: _parse_value(f"{name}.{key}", hints[key], value) for key, value in given.items()})


def defaults(kind: type) -> dict[str, dict[str, object]]:
    """Every group and key of a config with its default; ``???`` (OmegaConf's word for it) where there is none."""
    return {
        name: {
            field.name: "???" if field.default is dataclasses.MISSING else _plain(field.default)
            for field in dataclasses.fields(group)
        }
        for name, group in _groups(kind).items()
    }


def root_defaults(kind: type) -> dict[str, object]:
    """Every key of a config that is in no group, with its default."""
    fields = dataclasses.fields(kind)
    return {field.name: _plain(field.default) for field in fields if field.name in _root_keys(kind)}


def allowed(kind: type, group: str, key: str) -> str:
    """What a key of a config admits, in words; of no group, if that is empty."""
    return _allowed(typing.get_type_hints(_groups(kind)[group] if group else kind)[key])


def choices(kind: type, group: str, key: str) -> tuple[str, ...]:
    """The values of a config's key where they can be counted up; none of a number, of text, or of an unknown key."""
    hints = typing.get_type_hints(_groups(kind)[group]) if group in _groups(kind) else {}
    return tuple(dict.fromkeys(_counted_up(hints[key]))) if key in hints else ()


def _counted_up(hint: object) -> Iterator[str]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        yield from map(str, args)
    elif origin in (types.UnionType, typing.Union):
        for arg in args:
            yield from _counted_up(arg)
    elif hint is bool:
        yield from ("true", "false")
    elif hint is type(None):
        yield "null"
    elif isinstance(hint, type) and issubclass(hint, Enum):
        yield from (str(member.value) for member in hint)


def _groups(kind: type) -> dict[str, type]:
    hints = typing.get_type_hints(kind).items()
    return {name: hint for name, hint in hints if isinstance(hint, type) and dataclasses.is_dataclass(hint)}


def _root_keys(kind: type) -> dict[str, object]:
    """Keys that are in no group, with their types; all of them have a default."""
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if not dataclasses.is_dataclass(hint)}


def _names_of_plugins(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, tuple) else ()


def write_config(config: object, path: Path) -> None:
    """Freeze a config to a YAML file, which is on the disk when this returns.

    Raises:
        StorageError: the file system refuses.
    """
    nothing = root_defaults(type(config))
    said = {key: value for key, value in to_document(config).items() if key not in nothing or value != nothing[key]}
    write_whole(path, yaml.safe_dump(said, sort_keys=False))


def read_config(kind: type[Config], path: Path, *, imports: bool = True) -> Config:
    """The config that :func:`write_config` froze, of this version or an earlier one.

    Args:
        kind: Its dataclass.
        path: The file.
        imports: As for :func:`parse_config`.

    Raises:
        ConfigError: the file is missing, not a whole config, or a newer version's.
        StorageError: the file system refuses to read it.
    """
    try:
        document = yaml.safe_load(read_whole(path).decode())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(unreadable(exc, path)) from exc
    given = renamed_document(_mapping("the config", document))
    keys = {name: value for name, value in given.items() if name in _root_keys(kind)}
    try:
        groups = readable(
            {name: _mapping(f"config group {name!r}", group) for name, group in given.items() if name not in keys}
        )
    except ValueError as exc:
        raise ConfigError(f"config file {path} {exc}") from exc
    # A group that an earlier version did not have is all defaults.
    return parse_config(kind, {name: {} for name in _groups(kind)} | keys | groups, imports=imports)


def unreadable(exc: OSError | UnicodeDecodeError | yaml.YAMLError, path: Path) -> str:
    """Why a config file cannot be read, and at which line.

    Args:
        exc: What reading it raised; where it is no text, what decoding all of it raised.
        path: The file.
    """
    line, why = None, str(exc)
    if isinstance(exc, yaml.MarkedYAMLError) and exc.problem_mark is not None:
        line, why = exc.problem_mark.line + 1, exc.problem or why
    elif isinstance(exc, UnicodeDecodeError):
        line, why = exc.object[: exc.start].count(b"\n") + 1, "it is not UTF-8 text"
    elif isinstance(exc, OSError):
        why = exc.strerror or why
    where = str(path) if line is None else f"{path}, line {line}"
    return f"config file {where} cannot be read: {' '.join(why.split())}"


def _plain(value: object) -> object:
    if isinstance(value, (Enum, OpenName)):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return to_document(value) if dataclasses.is_dataclass(value) else value


def _mapping(what: str, document: object) -> Mapping[str, object]:
    if not isinstance(document, Mapping) or not all(isinstance(key, str) for key in document):
        raise ConfigError(f"{what} is {document!r}: it must be a mapping of keys to values")
    return document


def _required(group: type) -> list[str]:
    return [field.name for field in dataclasses.fields(group) if field.default is dataclasses.MISSING]


def _check_names(
    what: str,
    given: Mapping[str, object],
    known: Mapping[str, object],
    *,
    prefix: str = "",
    required: list[str] | None = None,
) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown {what} {prefix + key!r}: {nearest(key, known)}")
    for key in known if required is None else required:
        if key not in given:
            raise ConfigError(f"{what} {prefix + key!r} is missing: every config must have it")


def _parse_value(key: str, hint: object, value: object) -> object:
    """One value as its declared type. The synthetic one-field dataclass makes dacite's verdict that of one key."""
    holder = dataclasses.make_dataclass("Holder", [("value", hint)])
    rules = dacite.Config(cast=[Enum, OpenName, tuple], type_hooks={float: _number, int: _whole, bool: _truth})
    try:
        _refuse_text_for_list(hint, value)
        return dacite.from_dict(holder, {"value": value}, rules).value
    except (dacite.DaciteError, ValueError, TypeError, OverflowError) as exc:
        meant = closest(str(value), _names(hint))
        hinted = "" if meant is None or meant == value else f"did you mean '{meant}'? allowed: "
        raise ConfigError(f"{key}={_shown(value)} is not allowed: {hinted}{_allowed(hint)}") from exc


def _refuse_text_for_list(hint: object, value: object) -> None:
    """Text would be taken for the list of its characters."""
    if isinstance(value, str) and typing.get_origin(hint) is tuple:
        raise TypeError(value)


def _number(value: object) -> float:
    """A finite one: what is typed as inf, nan or 1e999 is a float to every parser before this."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(value)
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def _names(hint: object) -> tuple[str, ...]:
    """The names that a type admits; none, if it admits other things."""
    if typing.get_origin(hint) is typing.Literal:
        return tuple(map(str, typing.get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(str(member.value) for member in hint)
    return ()


def _allowed(hint: object) -> str:
    """What a type admits, in words."""
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(str(arg) for arg in args)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_allowed(arg) for arg in args)
    if origin is tuple:
        kind = _allowed(args[0])
        return f"a list, each {kind}" if args[-1] is Ellipsis else f"a list of {len(args)}, each {kind}"
    if origin is dict:
        return "a mapping of names to text"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(str(member.value) for member in hint)
    if isinstance(hint, type) and issubclass(hint, OpenName):
        return ", ".join(hint)
    return names.get(hint, str(hint))  # type: ignore[call-overload, no-any-return]
