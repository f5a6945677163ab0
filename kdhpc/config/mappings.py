"""Configs that are read as they are, without Hydra."""

from collections.abc import Hashable, Mapping
from pathlib import Path

import yaml

from kdhpc.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, shipped: str) -> Mapping[str, object]:
    """A YAML file that is a mapping.

    Args:
        path: The file.
        shipped: Our own file of that kind, below ``configs``, for the message.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # A SafeLoader.
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as exc:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(exc).split())}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is no mapping: see the shipped configs/{shipped}")
    return document
