"""What the result of a final training depends on, but for its seed: compared before it goes on, and named by a digest.

A graph and a file of weights count by what is in them, not by where they lie.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from kdhpc.config import compatibility
from kdhpc.config.document import to_document
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError
from kdhpc.files.json_text import parse_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.networks.weights import start_digest, weights_digest

Settings: TypeAlias = Mapping[str, str]
"""JSON values by key, such as ``training.epochs``."""
_PRECISION = "device.precision"


def run_settings(
    config: TrainConfig,
    *,
    graph_key: str,
    dataset_checksum: str,
    precision: str | None,
    method_settings: Mapping[str, object],
) -> Settings:
    """The settings of a run.

    Args:
        config: The run's.
        graph_key: Of its graph, or what names another method.
        dataset_checksum: Of the packed data.
        precision: That the networks run in; None: known only where it is trained.
        method_settings: What its result depends on beside these, see `Method.settings`.

    Raises:
        NetworkError: the file of pretrained weights cannot be read.
    """
    found: dict[str, str] = {}
    for group in ("dataset", "network", "objective", "training"):
        for key, value in compatibility.written(group, to_document(getattr(config, group))).items():
            found[f"{group}.{key}"] = json.dumps(value)
    found["objective.pretrained"] = json.dumps(weights_digest(config.objective))
    if config.network.weights is not None:
        found["network.weights"] = json.dumps(start_digest(config.network))
    # When accuracy is measured changes no weight.
    del found["training.evaluate"]
    found["run.split"] = json.dumps(config.run.split)
    found["graph"] = json.dumps(graph_key)
    found["dataset.checksum"] = json.dumps(dataset_checksum)
    found |= {key: json.dumps(value) for key, value in method_settings.items()}
    if precision is not None:
        found[_PRECISION] = json.dumps(precision)
    return found


def digest(settings: Settings) -> str:
    """Names settings: results of one digest can be averaged over seeds."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:16]


def write_settings(settings: Settings, path: Path) -> None:
    """Write them whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    write_whole(path, json.dumps({key: json.loads(value) for key, value in settings.items()}, indent=2), "\n")


def read_settings(path: Path) -> Settings | None:
    """Those in a file; None where there is none, or where it cannot be understood, as after a power cut.

    Raises:
        StorageError: the file system refuses.
    """
    try:
        document = parse_json(read_whole(path))
    except (FileNotFoundError, ValueError):
        return None
    return {key: json.dumps(value) for key, value in document.items()} if isinstance(document, dict) else None


def check_same_settings(settings: Settings, begun: Settings, folder: Path) -> None:
    """Refuse a run that was begun with something else.

    Args:
        settings: Of now.
        begun: Those that it, or another seed of it, was begun with.
        folder: Where that lies.

    Raises:
        ConfigError: the message names each that differs.
    """
    if unknown := compatibility.newer_keys(begun.keys() - settings.keys()):
        raise ConfigError(compatibility.newer(str(folder), unknown))
    different = differences(begun, settings)
    if different:
        raise ConfigError(
            f"{folder} was begun with other settings ({'; '.join(different)}): move it away, or give this "
            "training a name with run.name=NAME"
        )


def knows_precision(settings: Settings) -> bool:
    """Whether they say in which precision networks run: else their digest is that of no training that is done."""
    return _PRECISION in settings


def differences(begun: Settings, settings: Settings) -> list[str]:
    """The settings that differ, each with both values, in words; a precision that is not known differs from none."""
    was, now = ({key: json.loads(value) for key, value in one.items()} for one in (begun, settings))
    if not (knows_precision(begun) and knows_precision(settings)):
        was.pop(_PRECISION, None)
        now.pop(_PRECISION, None)
    different = compatibility.differences(was, now)
    return [f"{key} was {_shown(then)}, is {_shown(today)}" for key, (then, today) in different.items()]


def _shown(value: object) -> str:
    return compatibility.NOT_THERE if value is compatibility.NOT_THERE else json.dumps(value)
