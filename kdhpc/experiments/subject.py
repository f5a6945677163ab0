"""What is trained: a graph from a file or a preset, or ONE, the branched baseline, which is no graph."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

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
        ConfigError: ONE without a number of branches.
        GraphError: neither a preset nor a file, a damaged file, a number of nodes that does not fit, or a graph with a
            node that nothing teaches under ``objective.unlearned=reject``.
    """
    name, num_nodes = config.run.graph, config.run.num_nodes
    if name == ONE:
        if num_nodes is None:
            raise ConfigError("run.graph=one needs a number of branches: give --nodes B (run.num_nodes)")
        return Subject(graph=None, num_nodes=num_nodes, label=f"{ONE}{num_nodes}", key=f"{ONE}{num_nodes}")
    if name in PRESETS and num_nodes is None:
        raise ConfigError(f"run.graph={name} needs a number of nodes: give --nodes M (run.num_nodes)")
    graph = load_graph(name, num_nodes)
    if graph.unlearned_nodes and config.objective.unlearned == "reject":
        nodes = ", ".join(str(node + 1) for node in graph.unlearned_nodes)
        raise GraphError(f"{name}: no edge teaches node {nodes}: not allowed under objective.unlearned=reject")
    preset = name in PRESETS
    return Subject(
        graph=graph,
        num_nodes=graph.num_nodes,
        label=f"{name}{graph.num_nodes}" if preset else Path(name).stem,
        key=graph_key(graph),
        provenance={"preset": name} if preset else read_stored(Path(name)).provenance,
    )


def tell_about(subject: Subject, config: TrainConfig) -> None:
    """Say what a user may not expect: nodes that nothing teaches, a graph that was searched with something else."""
    if subject.graph is None:
        return
    tell_about_unlearned(subject.graph, config.objective, name=config.run.graph)
    for what, here in (("dataset", config.dataset.name), ("network", config.network.name)):
        searched = subject.provenance.get(what, here)
        if searched != here:
            _LOG.warning("%s was searched with %s %s, it is trained with %s", config.run.graph, what, searched, here)
