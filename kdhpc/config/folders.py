"""Where configs are looked for."""

import os
from pathlib import Path

from kdhpc.config.networks import NETWORKS
from kdhpc.errors import ConfigError


def config_dirs(config_dir: Path | None = None) -> tuple[Path, ...]:
    """Folders that are searched for a config, the first that has it wins; the shipped one is always last.

    Args:
        config_dir: ``--config-dir``; None: ``$KDHPC_CONFIG_DIR``, else ``./configs`` where there is one.

    Raises:
        ConfigError: a folder was named that does not exist, or is none.
    """
    named = config_dir or (Path(os.environ["KDHPC_CONFIG_DIR"]) if "KDHPC_CONFIG_DIR" in os.environ else None)
    if named is not None and not named.is_dir():
        what = "is no folder" if named.exists() else "does not exist"
        raise ConfigError(f"config folder {str(named)!r} {what}: name one with --config-dir or KDHPC_CONFIG_DIR")
    own = named or Path("configs")
    found = [path.absolute() for path in (own, shipped("configs")) if path.is_dir()]
    return tuple(dict.fromkeys(found))


def config_names(group: str, config_dir: Path | None = None) -> tuple[str, ...]:
    """Names of the configs in a group: the files in all searched folders, and for networks also all that kdhpc has."""
    names = set(NETWORKS) if group == "network" else set()
    names |= {path.stem for folder in config_dirs(config_dir) for path in (folder / group).glob("*.yaml")}
    return tuple(sorted(names))


def shipped(name: str) -> Path:
    """A folder that comes with kdhpc, as ``configs``: in a wheel inside the package, in a checkout beside it."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / name, package.parent / name) if path.is_dir())
