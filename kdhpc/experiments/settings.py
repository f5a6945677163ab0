"""What the result of a final training depends on, but for its seed: compared before it goes on, and named by a digest.

A graph and a file of weights count by what is in them, not by where they lie.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from kdhpc.config.document import to_document
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError, NetworkError

Settings: TypeAlias = Mapping[str, str]
"""JSON values by key, such as ``training.epochs``."""


def run_settings(config: TrainConfig, *, graph_key: str, dataset_checksum: str) -> Settings:
    """The settings of a run.

    Args:
        config: The run's.
        graph_key: Of its graph.
        dataset_checksum: Of the packed data.

    Raises:
        NetworkError: the file of pretrained weights cannot be read.
    """
    found: dict[str, str] = {}
    for group in ("dataset", "network", "objective", "training"):
        for key, value in to_document(getattr(config, group)).items():
            found[f"{group}.{key}"] = json.dumps(value)
    if config.objective.pretrained is not None:
        found["objective.pretrained"] = json.dumps(_digest_of_file(Path(config.objective.pretrained)))
    # When accuracy is measured changes no weight.
    del found["training.evaluate"]
    found["run.split"] = json.dumps(config.run.split)
    found["graph"] = json.dumps(graph_key)
    found["dataset.checksum"] = json.dumps(dataset_checksum)
    return found


def digest(settings: Settings) -> str:
    """Names settings: results of one digest can be averaged over seeds."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:16]


def write_settings(settings: Settings, path: Path) -> None:
    """Write them whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({key: json.loads(value) for key, value in settings.items()}, indent=2) + "\n")
    partial.replace(path)


def check_same_settings(settings: Settings, path: Path) -> None:
    """Refuse a run that was begun with something else.

    Args:
        settings: Of now.
        path: Where those lie that it, or another seed of it, was begun with; a file that is not there agrees.

    Raises:
        ConfigError: the message names each that differs.
    """
    if not path.exists():
        return
    try:
        begun = {key: json.dumps(value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as exc:
        raise ConfigError(f"{path} cannot be read ({exc}): move {path.parent} away") from exc
    different = [
        f"{key} was {begun.get(key, 'not there')}, is {settings.get(key, 'not there')}"
        for key in sorted(begun.keys() | settings.keys())
        if begun.get(key) != settings.get(key)
    ]
    if different:
        raise ConfigError(
            f"{path.parent} was begun with other settings ({'; '.join(different)}): move it away, or give this "
            "training a name with run.name=NAME"
        )


def _digest_of_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as exc:
        raise NetworkError(
            f"objective.pretrained={path} cannot be read ({exc.strerror or exc}): give a node1.safetensors of "
            "`kdhpc train --graph independent --nodes 1`"
        ) from exc
