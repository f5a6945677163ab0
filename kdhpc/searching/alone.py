"""The command that trains a trial's graph alone, as a final training, with the settings of its study."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from kdhpc.config.compatibility import readable
from kdhpc.config.compose import compose_train
from kdhpc.config.document import to_document
from kdhpc.errors import ConfigError
from kdhpc.graph.spec import GraphSpec
from kdhpc.searching.export import named_graph
from kdhpc.study.definition import StudyDefinition

_PLAIN = re.compile(r"[A-Za-z_/][\w./+@-]*")
_GROUPS = ("network", "objective", "training")
# Named by the words before; or how often a training is scored, which is another question for a final one.
_NOT_COPIED = frozenset({"network.name", "network.nodes", "training.evaluate"})


def train_words(definition: StudyDefinition, graph: GraphSpec, path: Path) -> list[str]:
    """Words of the command: ``kdhpc train --graph FILE dataset=... network=... training.epochs=...``.

    All training images are used, and the test images score, as in any final training.

    Args:
        definition: Of the study.
        graph: The trial's.
        path: The graph's file.
    """
    named = named_graph(definition, graph)
    chosen = [f"dataset={definition.dataset}", *([] if named.networks else [f"network={definition.network}"])]
    plugins = [f"plugins=[{','.join(definition.plugins)}]"] if definition.plugins else []
    try:
        settings = readable(json.loads(definition.settings))
        # Of several networks, any one shows what the defaults are.
        network = (named.networks or (definition.network,))[0]
        like = ["run.graph=independent", f"dataset={definition.dataset}", f"network={network}"]
        defaults = to_document(compose_train(like))
    except (ConfigError, ValueError):
        settings, defaults = {}, {}  # A data set or network without a config here: its defaults are not known.
    return ["kdhpc", "train", "--graph", str(path), *chosen, *plugins, *_different(settings, defaults)]


def _different(settings: Mapping[str, object], defaults: Mapping[str, object]) -> list[str]:
    """Settings of a study as overrides, where a final training has others by default."""
    words = []
    for group in _GROUPS:
        own, other = settings.get(group), defaults.get(group)
        if not isinstance(own, Mapping) or not isinstance(other, Mapping):
            continue
        for key, value in own.items():
            name = f"{group}.{key}"
            if name not in _NOT_COPIED and key in other and value != other[key]:
                words.append(f"{name}={_value(value)}")
    return words


def _value(value: object) -> str:
    """A value in the grammar of overrides."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value)
