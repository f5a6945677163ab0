"""What jobs of final trainings ask for, ``hydra.launcher.*``: wrong words are told before anything is trained."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdhpc.config.folders import config_dirs
from kdhpc.config.mappings import read_mapping
from kdhpc.config.overrides import read_overrides
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError, nearest

LAUNCHERS = {"submitit_local": "kdhpc_local", "submitit_slurm": "kdhpc_slurm"}
"""Names of ``--launcher``, and their configs of ``hydra/launcher``. Not called as the plugin's own: Hydra would check
ours against those, which lack keys."""
PREFIX = "hydra.launcher."
PYTHON = "python"
"""A key of Slurm's jobs that we read: the launcher knows none."""
_GROUP = "hydra/launcher"
_OF_SBATCH = "additional_parameters"
_TYPES = {"submitit_local": LocalQueueConf, "submitit_slurm": SlurmQueueConf}


def check_launcher(overrides: Sequence[str], launcher: str, config_dir: Path | None) -> None:
    """Refuse what the jobs of a launcher cannot be asked for.

    Args:
        overrides: Those of ``hydra``.
        launcher: One of ``LAUNCHERS``.
        config_dir: See :func:`kdhpc.config.folders.config_dirs`.

    Raises:
        ConfigError: a key does not exist, a value is not of its type, or there are several.
    """
    known = _keys(launcher, config_dir)
    typed = {field.name for field in fields(_TYPES[launcher])}
    for override in read_overrides(TrainConfig, overrides):
        line, key = override.input_line, override.key_or_group.removeprefix(PREFIX)
        if not override.key_or_group.startswith(PREFIX):
            raise ConfigError(f"{line} is not allowed: jobs are asked for by {PREFIX}KEY alone")
        name, dot, _ = key.partition(".")
        if name not in known or (dot and name != _OF_SBATCH):
            sbatch = f"; any other option of sbatch: {PREFIX}{_OF_SBATCH}.OPTION" if _OF_SBATCH in known else ""
            raise ConfigError(f"unknown config key {PREFIX + key!r}: {nearest(key, known)}{sbatch}")
        if override.is_sweep_override():
            raise ConfigError(f"{line} is not allowed: all jobs of a command ask for the same, give one value")
        if not dot and name in typed:
            try:
                OmegaConf.update(OmegaConf.structured(_TYPES[launcher]), name, override.value())
            except OmegaConfBaseException as exc:
                raise ConfigError(f"{line} is not allowed: {str(exc).splitlines()[0]}") from exc


def _keys(launcher: str, config_dir: Path | None) -> set[str]:
    """What can be given on the command line: the keys of its config."""
    name = f"{LAUNCHERS[launcher]}.yaml"
    path = next(path for folder in config_dirs(config_dir) if (path := folder / _GROUP / name).is_file())
    # submitit knows some that the config leaves out.
    keys = {*map(str, read_mapping(path, f"{_GROUP}/{name}")), *(field.name for field in fields(_TYPES[launcher]))}
    return keys - {"_target_", "submitit_folder"} | ({PYTHON} if launcher == "submitit_slurm" else set())
