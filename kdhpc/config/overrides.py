"""Overrides as users write them, read one by one: what Hydra would say about them is meant for its own command line."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from kdhpc.config.document import allowed, defaults, root_defaults
from kdhpc.config.folders import config_names
from kdhpc.config.own_datasets import packed_names
from kdhpc.config.renamed import renamed_overrides
from kdhpc.errors import ConfigError, nearest


def read_overrides(kind: type, overrides: Sequence[str], config_dir: Path | None = None) -> tuple[Override, ...]:
    """Overrides of a config, each of which may still hold several values, for a sweep.

    Args:
        kind: The dataclass of the config.
        overrides: ``group=name`` or ``key=value``, Hydra's grammar.
        config_dir: See :func:`kdhpc.config.folders.config_dirs`.

    Raises:
        ConfigError: one cannot be read, or leaves something out; the message says what its key takes.
    """
    parser = OverridesParser.create()
    found: list[Override] = []
    for text in renamed_overrides(overrides):
        key, equals, _ = text.lstrip("+~").partition("=")
        if text.startswith("~"):
            raise ConfigError(f"override {text!r} is not allowed, nothing can be left out: give {key}=VALUE")
        try:
            found.append(parser.parse_override(text))
        except HydraException as exc:
            group = _group_of(kind, text, config_dir)
            if group is not None:
                raise ConfigError(f"override {text!r} cannot be read: did you mean {group}={text}?") from exc
            raise ConfigError(
                f"override {text!r} cannot be read: {takes(kind, key, config_dir)}"
                + ("; text with special characters goes in quotes of its own" if equals else f", as {key}=VALUE")
            ) from exc
    return tuple(found)


def check_single(kind: type, overrides: Sequence[str], config_dir: Path | None = None) -> None:
    """Refuse what no single config can be composed with.

    Raises:
        ConfigError: as :func:`read_overrides`; or several values; a list, a number or nothing where a group takes the
            name of one config; or a key of Hydra's own.
    """
    for override in read_overrides(kind, overrides, config_dir):
        key = override.key_or_group
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line} is not allowed: give one value, {takes(kind, key, config_dir)}; a list is "
                "written [1,2]"
            )
        if not _is_known(kind, key):
            raise ConfigError(unknown_key(kind, key))
        if key in defaults(kind) and not isinstance(override.value(), str):
            raise ConfigError(f"{override.input_line} is not allowed: give one, {takes(kind, key, config_dir)}")
        if key.split(".")[0].split("/")[0] == "hydra":
            raise ConfigError(f"{override.input_line} has no meaning here: leave it out")


def _is_known(kind: type, key: str) -> bool:
    """Whether a config has such a key or group, as far as that can be told before it is composed."""
    group, _, field = key.partition(".")
    if key in root_defaults(kind) or re.search("[/@]", key) or group == "hydra":
        return True
    groups = defaults(kind)
    return group in groups and (not field or field.partition(".")[0] in groups[group])


def _group_of(kind: type, name: str, config_dir: Path | None) -> str | None:
    """The group that has a config of that name."""
    return next((group for group in defaults(kind) if name in config_names(group, config_dir)), None)


def takes(kind: type, key: str, config_dir: Path | None = None) -> str:
    """What a key, or a group, may be set to, in words; what it may have meant if there is no such key."""
    group, dot, field = key.partition(".")
    groups = defaults(kind)
    if not dot and group in groups:
        names = {*config_names(group, config_dir), *(packed_names() if group == "dataset" else ())}
        return f"{group} takes one of {', '.join(sorted(names))}"
    if field in groups.get(group, ()):
        return f"{key} takes {allowed(kind, group, field)}"
    if key in root_defaults(kind):
        return f"{key} takes {allowed(kind, '', key)}"
    return unknown_key(kind, key)


def unknown_key(kind: type, key: str) -> str:
    """That there is no such key, and which one may have been meant: of its group, of its last word, or the groups."""
    groups = defaults(kind)
    keys = [f"{group}.{field}" for group, fields in groups.items() for field in fields]
    same_group = [known for known in keys if known.split(".")[0] == key.split(".")[0]]
    same_word = [known for known in keys if known.split(".")[1] == key.split(".")[-1]]
    if same_word and "." not in key:
        return f"unknown config key {key!r}: did you mean {' or '.join(map(repr, same_word))}?"
    return f"unknown config key {key!r}: {nearest(key, same_group or same_word or [*groups, *root_defaults(kind)])}"
