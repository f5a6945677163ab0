"""The settings that the result of a final training depends on, except its seed.

They are compared before a run goes on, and their digest identifies runs whose results may be averaged. A graph and a
file of pretrained weights count by their content, not by their path.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from kdhpc.config import compatibility
from kdhpc.config.document import to_document
from kdhpc.config.renamed import first_name, name_today
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError
from kdhpc.files.json_text import parse_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.networks.weights import start_digest, weights_digest

Settings: TypeAlias = Mapping[str, str]
"""Values as JSON text, by key, such as ``training.epochs``."""
_PRECISION = "device.precision"
_BY_CONTENT = ("objective.pretrained", "network.weights")
"""Keys whose values are files."""


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
        config: Config of the run.
        graph_key: Key of its graph, or of another method.
        dataset_checksum: Checksum of its packed data set.
        precision: Precision that the networks run in; None: only the machine that trains the run knows it.
        method_settings: Other settings that the result depends on, see `Method.settings`.

    Raises:
        NetworkError: the file of pretrained weights cannot be read.
    """
    found = dict(config_settings(config))
    found["objective.pretrained"] = json.dumps(weights_digest(config.objective, config.network.distinct))
    if config.network.weights is not None:
        found["network.weights"] = json.dumps(start_digest(config.network))
    found["graph"] = json.dumps(graph_key)
    found["dataset.checksum"] = json.dumps(dataset_checksum)
    found |= {key: json.dumps(value) for key, value in method_settings.items()}
    if precision is not None:
        found[_PRECISION] = json.dumps(precision)
    return found


def config_settings(config: TrainConfig) -> Settings:
    """Those of them that a config alone knows: no graph, no content of a file, and no precision."""
    found: dict[str, str] = {}
    for group in ("dataset", "network", "objective", "training"):
        for key, value in compatibility.written(group, to_document(getattr(config, group))).items():
            found[f"{group}.{key}"] = json.dumps(value)
    # How often accuracy is measured does not change the weights.
    for key in ("training.evaluate", *_BY_CONTENT):
        found.pop(key, None)
    return found | {"run.split": json.dumps(config.run.split)}


def digest(settings: Settings) -> str:
    """A digest of settings. Runs with one digest differ in their seeds alone, so that their results can be averaged.

    It does not change where a config key gets another name.
    """
    document = {first_name(key): value for key, value in settings.items()}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def write_settings(settings: Settings, path: Path) -> None:
    """Write settings atomically.

    Raises:
        StorageError: the file system refuses.
    """
    write_whole(path, json.dumps({key: json.loads(value) for key, value in settings.items()}, indent=2), "\n")


def read_settings(path: Path) -> Settings | None:
    """Settings from a file, with the names that their keys have today.

    Returns:
        None: there is no such file, or it is damaged, as after a power cut.

    Raises:
        StorageError: the file system refuses.
    """
    try:
        document = parse_json(read_whole(path))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    return {name_today(key): json.dumps(value) for key, value in document.items()}


def check_same_settings(settings: Settings, begun: Settings, folder: Path) -> None:
    """Raise an error if a run would go on with other settings than it, or another seed of it, was begun with.

    Args:
        settings: The settings of now.
        begun: The settings that the folder was begun with.
        folder: The folder, for the message.

    Raises:
        ConfigError: settings differ; the message names each of them.
    """
    if unknown := compatibility.newer_keys(begun.keys() - settings.keys()):
        raise ConfigError(compatibility.newer(str(folder), unknown))
    different = differences(begun, settings)
    if different:
        raise ConfigError(
            f"{folder} was begun with other settings ({'; '.join(different)}): move it away, or give this "
            "training a name with run.name=NAME"
        )


def precision_of(settings: Settings) -> str | None:
    """The precision that networks run in; None: it is unknown."""
    return json.loads(settings[_PRECISION]) if knows_precision(settings) else None


def knows_precision(settings: Settings) -> bool:
    """Whether settings contain the precision. If not, their digest cannot be compared with that of a result."""
    return _PRECISION in settings


def differences(begun: Settings, settings: Settings) -> list[str]:
    """The settings that differ, each in words with both values. An unknown precision is not compared."""
    was, now = ({key: json.loads(value) for key, value in one.items()} for one in (begun, settings))
    if not (knows_precision(begun) and knows_precision(settings)):
        was.pop(_PRECISION, None)
        now.pop(_PRECISION, None)
    different = compatibility.differences(was, now)
    return [f"{key} was {_shown(then)}, is {_shown(today)}" for key, (then, today) in different.items()]


def _shown(value: object) -> str:
    return compatibility.NOT_THERE if value is compatibility.NOT_THERE else json.dumps(value)
