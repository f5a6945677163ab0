"""What a study was made with: stored with it, and compared when it is opened again."""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdhpc.config import compatibility
from kdhpc.config.goals import DEFAULT_GOAL
from kdhpc.config.renamed import renamed_document
from kdhpc.errors import StudyError, StudyMismatchError
from kdhpc.graph.plugins import load_plugins
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import Design, Gate

_FORMAT = "kdhpc-study"
_VERSION = 1
_SHOWN_LENGTH = 60


class Split(Protocol):
    """The images that graphs are trained and scored on: indices into the packed training half."""

    @property
    def train(self) -> NDArray[np.int64]:
        """Shape (images,)."""

    @property
    def validation(self) -> NDArray[np.int64]:
        """Shape (images,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredSplit:
    """The split as it comes out of the database."""

    train: NDArray[np.int64]
    """Shape (images,)."""
    validation: NDArray[np.int64]
    """Shape (images,)."""


@dataclass(frozen=True, kw_only=True)
class StudyDefinition:
    """What a study was made with."""

    name: str
    """Its name, also that of the Optuna study."""
    space: SearchSpace
    """The graphs that it tries."""
    seed: int
    """Seeds graphs and trials."""
    pruner: str
    """``median``, ``asha`` or ``none``."""
    prune_from: int = 1
    """The first epoch at which a trial may be pruned."""
    sampler: str
    """``random``, ``tpe``, ``evolve`` or ``refine``."""
    max_attempts: int
    """After so many crashes or vanished workers without progress, a slot is failed."""
    last_epoch: int
    """Epochs of the full schedule; no trial is pruned at the last one."""
    network: str
    """Network of every node; of different ones their names with ``+`` between them. Where networks are searched: of
    graphs that name none."""
    dataset: str
    """Name of the packed data set."""
    dataset_checksum: str
    """Its checksum."""
    settings: str
    """Everything else that a trial's result depends on, as JSON text of the config's groups."""
    plugins: Mapping[str, str] = field(default_factory=dict)
    """Digests of the plug-ins whose designs and gates graphs may have, by module."""
    goal: str = DEFAULT_GOAL
    """What its values are, see ``kdhpc.config.goals``."""
    population: int | None = None
    """``evolve``, ``refine``: see ``StudyConfig``."""
    sample: int | None = None
    """``evolve``: see ``StudyConfig``."""
    refine_best: int = 3
    """``refine``: see ``StudyConfig``."""
    pretrained_weights: str | None = None
    """Digest of the files that ``objective.pretrained`` and ``network.weights`` name; None where they name none."""
    precision: str | None = None
    """What networks are computed in, as ``DeviceConfig.precision`` names it; None: not settled, or any. It is
    stored beside the definition, since the first worker may be the one to settle it."""

    @property
    def node_networks(self) -> tuple[str, ...]:
        """Of each node, where a graph names none."""
        nodes = json.loads(self.settings).get("network", {}).get("nodes", ())
        return tuple(nodes) or (self.network,) * self.space.num_nodes


def to_json(definition: StudyDefinition) -> str:
    """The definition as JSON text."""
    document = _document(definition)
    for key, default in _LATER.items():
        if document[key] == default:
            del document[key]
    if not definition.space.node1_learns:
        document["space"] = {key: value for key, value in _space(definition.space).items() if key != "node1_learns"}
    return json.dumps({"format": _FORMAT, "version": _VERSION, **document}, sort_keys=True)


def from_json(text: str, *, name: str) -> StudyDefinition:
    """The definition that a database row holds.

    Raises:
        ConfigError: a plug-in that it needs cannot be imported.
        StudyError: another version of kdhpc wrote it.
    """
    try:
        document = json.loads(text)
        if (document["format"], document["version"]) != (_FORMAT, _VERSION):
            raise ValueError(f"it is of format {document['format']}, version {document['version']}")
        space = document["space"]
        unknown = {*document} - _KNOWN | {f"space.{key}" for key in {*space} - _KNOWN_OF_SPACE}
        if unknown:
            raise ValueError(compatibility.newer("it", sorted(unknown)))
        plugins = {str(module): str(digest) for module, digest in document.get("plugins", {}).items()}
        load_plugins(plugins)
        return StudyDefinition(
            space=SearchSpace(
                num_nodes=space["num_nodes"],
                label_gates=tuple(Gate(gate) for gate in space["label_gates"]),
                gates=tuple(Gate(gate) for gate in space["gates"]),
                designs=tuple(Design(design) for design in space["designs"]),
                reject_unlearned=space["reject_unlearned"],
                node1_learns=space.get("node1_learns", False),
                networks=tuple(space.get("networks", ())),
                node1_network=space.get("node1_network"),
            ),
            settings=json.dumps(renamed_document(document["settings"]), sort_keys=True),
            plugins=plugins,
            pretrained_weights=document.get("pretrained_weights"),
            **{key: document[key] for key in _PLAIN if key in document or key not in _OPTIONAL},
            **{key: document[key] for key in _LATER if key in document},
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise StudyError(
            f"study '{name}' cannot be read ({exc}): this kdhpc reads {_FORMAT} version {_VERSION}, use the one that "
            "made it"
        ) from exc


def differences(stored: StudyDefinition, given: StudyDefinition) -> list[str]:
    """The fields in which two definitions differ, each with both values, in words.

    Pretrained weights count by their content, not by where they lie; the precision only where both have one.

    Raises:
        StudyMismatchError: a newer version of kdhpc made the stored one.
    """
    # One file of weights is text, several are a mapping: both are another key.
    before, now = (
        {key: value for key, value in _flat("", _document(one)) if not f"{key}.".startswith("objective.pretrained.")}
        for one in (stored, given)
    )
    if unknown := compatibility.newer_keys(before.keys() - now.keys()):
        raise StudyMismatchError(compatibility.newer(f"study '{stored.name}'", unknown))
    for flat in (before, now):
        for key in ("objective.pretrained", "network.weights"):
            flat.pop(key, None)
    if stored.precision and given.precision:
        before["device.precision"], now["device.precision"] = stored.precision, given.precision
    different = compatibility.differences(before, now)
    if "training.epochs" in different:
        different.pop("last_epoch", None)  # It is the same, by a name that nobody gives.
    return [f"{key} was {_shown(was)}, is {_shown(is_now)}" for key, (was, is_now) in different.items()]


def split_differences(stored: Split, given: Split) -> list[str]:
    """The halves in which two splits differ, in words."""
    halves = (("train", stored.train, given.train), ("validation", stored.validation, given.validation))
    return [
        f"split.{half} was {_shown_indices(before)}, is {_shown_indices(now)}"
        for half, before, now in halves
        if not np.array_equal(before, now)
    ]


def pack_indices(indices: NDArray[np.int64]) -> bytes:
    """Indices as they are stored."""
    return zlib.compress(np.ascontiguousarray(indices, dtype="<i8").tobytes())


def unpack_indices(packed: bytes) -> NDArray[np.int64]:
    """Indices from the stored form."""
    return np.frombuffer(zlib.decompress(packed), dtype="<i8").astype(np.int64)


def trial_seed(seed: int, slot: int) -> int:
    """The seed of a slot's weights and data order, 0 to 2^63 - 1: a pure function of the study's seed and the slot."""
    digest = hashlib.sha256(f"study {seed} slot {slot}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def given_seed(seed: int, graph_key: str, repetition: int) -> int:
    """The seed of a training of a given graph, 0 to 2^63 - 1: a pure function of the study's seed, the graph and the
    number of the repetition (from 1). No trial of the budget has it.
    """
    digest = hashlib.sha256(f"study {seed} graph {graph_key} repetition {repetition}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


_PLAIN = (
    "name",
    "seed",
    "pruner",
    "sampler",
    "max_attempts",
    "last_epoch",
    "network",
    "dataset",
    "dataset_checksum",
)
_LATER: Mapping[str, object] = {
    "goal": DEFAULT_GOAL,
    "prune_from": 1,
    "population": None,
    "sample": None,
    "refine_best": 3,
}
"""Fields that version 0.1.0 did not have: written down only if they say something, so that it can read the rest."""
_KNOWN = frozenset({"format", "version", "space", "settings", "plugins", "pretrained_weights", *_PLAIN, *_LATER})
_KNOWN_OF_SPACE = frozenset(
    {
        *("num_nodes", "label_gates", "gates", "designs", "reject_unlearned", "node1_learns"),
        *("networks", "node1_network"),
    }
)
_OPTIONAL = frozenset(found.name for found in fields(StudyDefinition) if found.default is not MISSING)
"""A field that an earlier version did not have needs a default, which means what was done then."""


def _document(definition: StudyDefinition) -> dict[str, object]:
    return {
        **{key: getattr(definition, key) for key in (*_PLAIN, *_LATER)},
        "space": _space(definition.space),
        "settings": json.loads(definition.settings),
        **({"plugins": dict(definition.plugins)} if definition.plugins else {}),
        "pretrained_weights": definition.pretrained_weights,
    }


def _space(space: SearchSpace) -> dict[str, object]:
    return {
        "num_nodes": space.num_nodes,
        "label_gates": [gate.value for gate in space.label_gates],
        "gates": [gate.value for gate in space.gates],
        "designs": [design.value for design in space.designs],
        "reject_unlearned": space.reject_unlearned,
        "node1_learns": space.node1_learns,
        # As it was written before networks were searched.
        **({"networks": list(space.networks)} if space.networks else {}),
        **({} if space.node1_network is None else {"node1_network": space.node1_network}),
    }


def _flat(prefix: str, document: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """``{"settings": {"training": {"epochs": 4}}}`` as ``training.epochs``, the name that the config gives it."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat("" if key == "settings" else f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _shown(value: object) -> str:
    if value is compatibility.NOT_THERE:
        return compatibility.NOT_THERE
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."


def _shown_indices(indices: NDArray[np.int64]) -> str:
    checksum = hashlib.sha256(pack_indices(indices)).hexdigest()[:8]
    return f"{len(indices)} images ({checksum})"
