"""What is trained: a graph from a file or a preset, or ONE, the branched baseline, which is no graph."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.config.document import flatten, to_document
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError, GraphError
from kdhpc.graph.presets import PRESETS, load_graph
from kdhpc.graph.serial import Provenance, read_stored
from kdhpc.graph.space import graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.training.pretrained import tell_about_unlearned

_LOG = logging.getLogger(__name__)
ONE = "one"
"""The name of the branched baseline, beside those of the presets."""
_COMPARED = (
    *("dataset", "dataset_checksum", "network", "config.network.crops", "config.network.residual_attention"),
    "config.training.batch_size",
)
"""What decides, beside the graph, whether a training is like the trial that the graph comes from."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph, or ONE."""

    graph: GraphSpec | None
    """None: ONE."""
    num_nodes: int
    """M, or B of ONE."""
    label: str
    """Short name, for folders."""
    key: str
    """Names the graph by what it does; ``one`` and B for ONE."""
    provenance: Provenance = field(default_factory=dict)
    """Where a graph's file says that it comes from."""


def load_subject(config: TrainConfig) -> Subject:
    """What the config means by ``run.graph``.

    Raises:
        ConfigError: a preset without a number of nodes, ONE without one of branches, or with options that it has not.
        GraphError: neither a preset nor a file, a damaged file, a number of nodes that does not fit, or a graph with a
            node that nothing teaches under ``objective.unlearned=reject``.
    """
    name, num_nodes = config.run.graph, config.run.num_nodes
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
        label=_preset_label(name, graph.num_nodes) if preset else Path(name).stem,
        key=graph_key(graph),
        provenance={"preset": name} if preset else read_stored(Path(name)).provenance,
    )


def tell_about(subject: Subject, config: TrainConfig, dataset_checksum: str) -> None:
    """Say what a user may not expect: nodes that nothing teaches, a graph that was searched with something else."""
    if subject.graph is None:
        return
    tell_about_unlearned(subject.graph, config.objective, name=config.run.graph)
    here: Provenance = {
        "dataset": config.dataset.name,
        "dataset_checksum": dataset_checksum,
        "network": config.network.name,
        **flatten("config", to_document(config)),
    }
    different = _different(subject.provenance, here)
    if different:
        searched, trained = (
            ", ".join(f"{key.removeprefix('config.')} {_short(source[key])}" for key in different)
            for source in (subject.provenance, here)
        )
        _LOG.warning("%s was searched with %s; it is trained with %s", config.run.graph, searched, trained)


def _one(config: TrainConfig) -> Subject:
    num_branches, unlearned = config.run.num_nodes, config.objective.unlearned
    if num_branches is None:
        raise ConfigError("run.graph=one needs a number of branches: give --nodes B (run.num_nodes)")
    if unlearned != "keep":
        raise ConfigError(
            f"objective.unlearned={unlearned} has no meaning for run.graph=one, whose branches all learn: leave it out"
        )
    name = f"{ONE}{num_branches}"
    return Subject(graph=None, num_nodes=num_branches, label=name, key=name)


def _preset_label(name: str, num_nodes: int) -> str:
    """``dml2``; ``uniform3-att-`` of ``uniform:att-``."""
    kind, _, design = name.partition(":")
    return f"{kind}{num_nodes}" + (f"-{design}" if design else "")


def _different(searched: Provenance, here: Provenance) -> list[str]:
    """What a graph's file says to have been otherwise; the same images under another name are the same."""
    different = [key for key in _COMPARED if searched.get(key, here[key]) != here[key]]
    images = [key for key in ("dataset", "dataset_checksum") if key in different]
    if images and searched.get("dataset_checksum") == here["dataset_checksum"]:
        images.clear()
    return images[:1] + [key for key in different if not key.startswith("dataset")]


def _short(value: str | int | float) -> str:
    return str(value)[:16]
