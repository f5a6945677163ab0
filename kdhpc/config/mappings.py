"""Configs that are read as they are, without Hydra."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from kdhpc.errors import ConfigError


def read_mapping(path: Path, shipped: str) -> Mapping[str, object]:
    """A YAML file that is a mapping.

    Args:
        path: The file.
        shipped: Our own file of that kind, below ``configs``, for the message.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as exc:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(exc).split())}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is no mapping: see the shipped configs/{shipped}")
    return document
