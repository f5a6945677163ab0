"""What is trained: a graph from a file or a preset; or what is no graph: ONE, the branched baseline, or a student."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.config.document import flatten, to_document
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError, GraphError
from kdhpc.final.teacher import Teacher, load_teacher
from kdhpc.graph.presets import PRESETS, load_graph
from kdhpc.graph.presets import label as preset_label
from kdhpc.graph.serial import Provenance, read_stored
from kdhpc.graph.space import graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.training.pretrained import tell_about_unlearned

_LOG = logging.getLogger(__name__)
ONE = "one"
"""The name of the branched baseline, beside those of the presets."""
STUDENT = "student"
"""The name of a single network that learns from a run that is done."""
_IMAGES = ("dataset", "dataset_checksum")
_COMPARED = (
    *(*_IMAGES, "network", "config.network.crops", "config.network.residual_attention"),
    "config.training.batch_size",
)
"""What decides, beside the graph, whether a training is like the trial that the graph comes from."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph, ONE, or a student."""

    graph: GraphSpec | None
    """None: ONE or a student."""
    num_nodes: int
    """M, B of ONE, or 1 of a student."""
    label: str
    """Short name, for folders."""
    key: str
    """Names the graph by what it does; ``one`` and B for ONE; ``student``."""
    provenance: Provenance = field(default_factory=dict)
    """Where a graph's file says that it comes from."""
    teacher: Teacher | None = None
    """Of a student."""

    @property
    def is_one(self) -> bool:
        """Whether it is the branched baseline."""
        return self.graph is None and self.teacher is None


def load_subject(config: TrainConfig) -> Subject:
    """What the config means by ``run.graph``.

    Raises:
        ConfigError: a preset without a number of nodes, ONE without one of branches, a student without a teacher that
            is done, or any of them with options that it has not.
        DataError, NetworkError: the teacher is damaged.
        GraphError: neither a preset nor a file, a damaged file, a number of nodes that does not fit, or a graph with a
            node that nothing teaches under ``objective.unlearned=reject``.
    """
    name, num_nodes = config.run.graph, config.run.num_nodes
    if name == STUDENT:
        return _student(config)
    for key, value, default in (("teacher", config.run.teacher, None), ("temperature", config.run.temperature, 1)):
        if value != default:
            raise ConfigError(
                f"run.{key}={value} has no meaning for run.graph={name}: leave it out, or give --graph student"
            )
    if name == ONE:
        return _one(config)
    preset = name in PRESETS
    if preset and num_nodes is None:
        raise ConfigError(f"run.graph={name} needs a number of nodes: give --nodes M (run.num_nodes)")
    graph = load_graph(name, num_nodes)
    if graph.unlearned_nodes and config.objective.unlearned == "reject":
        nodes = ", ".join(str(node + 1) for node in graph.unlearned_nodes)
        raise GraphError(f"{name}: no edge teaches node {nodes}: not allowed under objective.unlearned=reject")
    return Subject(
        graph=graph,
        num_nodes=graph.num_nodes,
        label=preset_label(name, graph.num_nodes) if preset else Path(name).stem,
        key=graph_key(graph),
        provenance={"preset": name} if preset else read_stored(Path(name)).provenance,
    )


def tell_about(subject: Subject, config: TrainConfig, dataset_checksum: str) -> None:
    """Say what a user may not expect.

    That is: nodes that nothing teaches, a graph that was searched with something else, a teacher of other images.
    """
    here = _facts(config, dataset_checksum)
    if subject.teacher is not None:
        taught = subject.teacher.run
        there = _facts(taught.config, taught.dataset_checksum)
        images = [key for key in here if key.startswith("config.dataset.") and key != "config.dataset.name"]
        if said := _differences(there, here, (*_IMAGES, *images, "config.run.split")):
            _LOG.warning(
                "the teacher %s was trained with %s; its student is trained with %s", config.run.teacher, *said
            )
    if subject.graph is None:
        return
    tell_about_unlearned(subject.graph, config.objective, name=config.run.graph)
    if said := _differences(subject.provenance, here, _COMPARED):
        _LOG.warning("%s was searched with %s; it is trained with %s", config.run.graph, *said)


def _facts(config: TrainConfig, dataset_checksum: str) -> Provenance:
    """A training as the provenance of a graph would tell it."""
    return {
        "dataset": config.dataset.name,
        "dataset_checksum": dataset_checksum,
        "network": config.network.name,
        **flatten("config", to_document(config)),
    }


def _student(config: TrainConfig) -> Subject:
    run = config.run
    if run.teacher is None:
        raise ConfigError("run.graph=student needs a teacher: give --teacher runs/train/NAME/seed<k> (run.teacher)")
    if run.num_nodes not in (None, 1):
        raise ConfigError(
            f"run.num_nodes={run.num_nodes} has no meaning for run.graph=student, one network: leave it out"
        )
    _refuse_unlearned(config, "which learns")
    teacher = load_teacher(Path(run.teacher))
    label = f"{STUDENT}-of-{teacher.run.label}"
    return Subject(graph=None, num_nodes=1, label=label, key=STUDENT, teacher=teacher)


def _one(config: TrainConfig) -> Subject:
    num_branches = config.run.num_nodes
    if num_branches is None:
        raise ConfigError("run.graph=one needs a number of branches: give --nodes B (run.num_nodes)")
    _refuse_unlearned(config, "whose branches all learn")
    name = f"{ONE}{num_branches}"
    return Subject(graph=None, num_nodes=num_branches, label=name, key=name)


def _refuse_unlearned(config: TrainConfig, why: str) -> None:
    unlearned = config.objective.unlearned
    if unlearned != "keep":
        raise ConfigError(
            f"objective.unlearned={unlearned} has no meaning for run.graph={config.run.graph}, {why}: leave it out"
        )


def _differences(there: Provenance, here: Provenance, keys: Sequence[str]) -> tuple[str, str] | None:
    """What was otherwise there, and how it is here, in words; the same images under another name are the same."""
    different = [key for key in keys if there.get(key, here[key]) != here[key]]
    images = [key for key in _IMAGES if key in different]
    if images and there.get("dataset_checksum") == here["dataset_checksum"]:
        images.clear()
    told = images[:1] + [key for key in different if key not in _IMAGES]
    if not told:
        return None
    then, now = (
        ", ".join(f"{key.removeprefix('config.')} {_short(source[key])}" for key in told) for source in (there, here)
    )
    return then, now


def _short(value: str | int | float) -> str:
    return str(value)[:16]
