"""Graphs as JSON files that people can read, write by hand and compare.

    {
      "format": "kdhpc-graph",
      "version": 1,
      "nodes": 2,
      "label_edges": [
        {"target": 1, "gate": "through"},
        {"target": 2, "gate": "linear"}
      ],
      "edges": [
        {"source": 1, "target": 2, "design": "prob+", "gate": "through"}
      ],
      "provenance": {
        "study": "dogs2",
        "trial": 17
      }
    }

A distillation edge that is not listed is cut off. ``networks``, a list of one name for each node, is optional: it says
which network each node is. ``provenance`` is optional and free: names with strings and numbers.
A graph with designs or gates of plug-ins has ``"plugins": {"my_designs": "0123456789ab"}``: modules, and digests of the
source that it was trained with.
Nothing else may be left out or added, so that a misspelt field is an error and not a default.
"""

import functools
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypedDict

from kdhpc.errors import GraphError
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.graph.document import Value, parse
from kdhpc.graph.node_space import EdgeKind
from kdhpc.graph.plugins import changed_plugins, missing_plugins, names_in, plugins_of
from kdhpc.graph.space import edge_of
from kdhpc.graph.spec import MOST_NODES, Design, DistillationEdge, Gate, GraphSpec

_LOG = logging.getLogger(__name__)
PLUGIN_REMEDY = "add plugins=[{names}], if you trust its code"
"""What messages about plug-ins that are not loaded ask for; ``{names}`` stands for them."""
FORMAT = "kdhpc-graph"
VERSION = 1

Provenance: TypeAlias = Mapping[str, str | int | float]
"""Where a graph comes from: study, trial, network, ..."""


class LabelEdgeDocument(TypedDict):
    """One of ``label_edges``; nodes count from 1."""

    target: int
    gate: str


class EdgeDocument(TypedDict):
    """One of ``edges``; nodes count from 1."""

    source: int
    target: int
    design: str
    gate: str


class _GraphFields(TypedDict):
    """What every file has."""

    format: str
    version: int
    nodes: int
    label_edges: list[LabelEdgeDocument]
    edges: list[EdgeDocument]
    provenance: dict[str, str | int | float]


class GraphDocument(_GraphFields, total=False):
    """The JSON object of a file; these come before ``provenance``, and only where they say something."""

    networks: list[str]
    plugins: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class StoredGraph:
    """What a file holds."""

    graph: GraphSpec
    """The graph."""
    provenance: Provenance = field(default_factory=dict)
    """Where it comes from; may be empty."""


def to_document(
    graph: GraphSpec, provenance: Provenance | None = None, plugins: Mapping[str, str] | None = None
) -> GraphDocument:
    """The JSON object of a graph; cutoff edges are left out where reading gives them back unchanged."""
    needed = plugins_of(names_in(graph))
    document = GraphDocument(
        format=FORMAT,
        version=VERSION,
        nodes=graph.num_nodes,
        label_edges=[
            LabelEdgeDocument(target=node, gate=gate.value) for node, gate in enumerate(graph.label_gates, start=1)
        ],
        edges=[
            EdgeDocument(source=edge.source + 1, target=edge.target + 1, design=edge.design.value, gate=edge.gate.value)
            for edge in graph.edges
            if edge != edge_of(edge.source, edge.target)
        ],
        provenance=dict(provenance or {}),
    )
    if graph.networks:
        document["networks"] = list(graph.networks)
    if needed:
        document["plugins"] = {module: (plugins or {}).get(module, digest) for module, digest in needed.items()}
    return document


def to_json(graph: GraphSpec, provenance: Provenance | None = None, plugins: Mapping[str, str] | None = None) -> str:
    """The text of a file: one line an edge, ASCII, always the same for the same graph and provenance.

    Args:
        graph: The graph.
        provenance: Where it comes from.
        plugins: Digests that its plug-ins had when it was trained, by module; None: those of this process.

    Raises:
        GraphError: provenance holds something else than strings and finite numbers.
    """
    document = to_document(graph, provenance, plugins)
    _provenance(Value(value=document["provenance"], origin="the graph to write", place="provenance"))
    parts = [
        f'"format": {json.dumps(document["format"])}',
        f'"version": {document["version"]}',
        f'"nodes": {document["nodes"]}',
        _block("label_edges", "[]", map(json.dumps, document["label_edges"])),
        _block("edges", "[]", map(json.dumps, document["edges"])),
    ]
    if "networks" in document:
        parts.append(f'"networks": {json.dumps(document["networks"])}')
    if "plugins" in document:
        digests = (f"{json.dumps(module)}: {json.dumps(digest)}" for module, digest in document["plugins"].items())
        parts.append(_block("plugins", "{}", digests))
    if document["provenance"]:
        items = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in document["provenance"].items())
        parts.append(_block("provenance", "{}", items))
    return "{\n  " + ",\n  ".join(parts) + "\n}\n"


def _block(key: str, brackets: str, items: Iterable[str]) -> str:
    inner = ",\n    ".join(items)
    return f'"{key}": {brackets[0]}\n    {inner}\n  {brackets[1]}' if inner else f'"{key}": {brackets}'


def parse_graph(text: str, *, origin: str, plugin_remedy: str = PLUGIN_REMEDY) -> StoredGraph:
    """The graph and the provenance in the text of a file.

    Args:
        text: the text.
        origin: what errors call it: the file.
        plugin_remedy: what errors ask for where plug-ins are not loaded, as ``PLUGIN_REMEDY``.

    Raises:
        GraphError: it is not JSON, of another format or version, or a field is unknown, missing, of a wrong type, not
            allowed, or there twice; or it needs plug-ins that are not loaded.
    """
    document = parse(text, origin=origin)
    _check_version(document)
    required = ("format", "version", "nodes", "label_edges", "edges")
    fields = document.fields(required, ("networks", "plugins", "provenance"))
    if "plugins" in fields:
        _check_plugins(fields["plugins"], plugin_remedy)
    num_nodes = fields["nodes"].integer(1)
    label_gates = _label_gates(fields["label_edges"], num_nodes)
    if num_nodes > MOST_NODES:
        fields["nodes"].fail(f"{num_nodes} is not allowed: at most {MOST_NODES}")
    taught = _edges(fields["edges"], num_nodes)
    pairs = [(s, t) for s in range(num_nodes) for t in range(num_nodes) if s != t]
    networks = _networks(fields["networks"], num_nodes) if "networks" in fields else ()
    edges = tuple(taught.get(pair, edge_of(*pair)) for pair in pairs)
    graph = GraphSpec(label_gates=label_gates, edges=edges, networks=networks)
    return StoredGraph(graph=graph, provenance=_provenance(fields["provenance"]) if "provenance" in fields else {})


def from_json(text: str, *, origin: str) -> GraphSpec:
    """The graph in the text of a file; see ``parse_graph``."""
    return parse_graph(text, origin=origin).graph


def read_stored(path: Path, *, plugin_remedy: str = PLUGIN_REMEDY) -> StoredGraph:
    """The graph and the provenance in a file; ``plugin_remedy`` as for `parse_graph`.

    Raises:
        GraphError: it cannot be read, or does not hold a graph.
        StorageError: the file system refuses to read it.
    """
    try:
        text = read_whole(path).decode("utf-8-sig")
    except OSError as exc:
        raise GraphError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise GraphError(f"{path} is not a JSON document: byte {exc.start} is not UTF-8") from exc
    return parse_graph(text, origin=str(path), plugin_remedy=plugin_remedy)


def read_graph(path: Path) -> GraphSpec:
    """The graph in a file; see ``read_stored``."""
    return read_stored(path).graph


def write_graph(
    path: Path,
    graph: GraphSpec,
    provenance: Provenance | None = None,
    plugins: Mapping[str, str] | None = None,
) -> None:
    """Write a file, whole or not at all; its folder is made where it is missing. Arguments as for `to_json`.

    Raises:
        GraphError: provenance holds something else than strings and finite numbers.
        StorageError: the file system refuses.
    """
    text = to_json(graph, provenance, plugins)
    write_whole(path, text)


def _check_version(document: Value) -> None:
    """Before any other field: another format or version may well have other fields."""
    fields = document.any_fields()
    for name in ("format", "version"):
        if name not in fields:
            document.fail(
                f'field \'{name}\' is missing: a graph starts with "format": "{FORMAT}", "version": {VERSION}'
            )
    if fields["format"].value != FORMAT:
        fields["format"].fail(f'{fields["format"].shown} is not allowed: a graph has "{FORMAT}"')
    if fields["version"].integer(1) != VERSION:
        fields["version"].fail(
            f"{fields['version'].shown} is not known: this kdhpc reads version {VERSION}; update kdhpc"
        )


def _check_plugins(value: Value, remedy: str) -> None:
    """That they are loaded; one that is another now is told of, once: a training writes down the one that it uses."""
    modules = {module: str(digest.scalar()) for module, digest in value.any_fields().items()}
    if missing := missing_plugins(modules):
        names = ",".join(missing)
        value.fail(f"the graph needs plug-in {', '.join(missing)}: {remedy.format(names=names)}")
    for said in changed_plugins(modules):
        _tell_once(f"{value.origin} was made with another plug-in {said}")


@functools.cache
def _tell_once(message: str) -> None:
    _LOG.warning("%s", message)


def _label_gates(edges: Value, num_nodes: int) -> tuple[Gate, ...]:
    gates: dict[int, Gate] = {}
    for edge in edges.items():
        fields = edge.fields(("target", "gate"))
        target = fields["target"].integer(1, num_nodes)
        if target in gates:
            edge.fail(f"node {target} has a label edge already: keep one of them")
        gates[target] = fields["gate"].choice(Gate)
    missing = next((node for node in range(1, num_nodes + 1) if node not in gates), None)
    if missing is not None:
        edges.fail(f"the label edge of node {missing} is missing: one for each of the {num_nodes} nodes is needed")
    return tuple(gates[node] for node in range(1, num_nodes + 1))


def _edges(edges: Value, num_nodes: int) -> dict[tuple[int, int], DistillationEdge]:
    found: dict[tuple[int, int], DistillationEdge] = {}
    for edge in edges.items():
        fields = edge.fields(("source", "target", "design", "gate"))
        source, target = fields["source"].integer(1, num_nodes), fields["target"].integer(1, num_nodes)
        if source == target:
            edge.fail(f"node {source} cannot teach itself: source and target must differ")
        if (source - 1, target - 1) in found:
            edge.fail(f"edge {source}->{target} is there twice: keep one of them")
        kind = EdgeKind(fields["design"].choice(Design), fields["gate"].choice(Gate))
        found[source - 1, target - 1] = edge_of(source - 1, target - 1, kind)
    return found


def _networks(value: Value, num_nodes: int) -> tuple[str, ...]:
    items = value.items()
    if len(items) != num_nodes:
        value.fail(f"{len(items)} are not allowed: one for each of the {num_nodes} nodes")
    return tuple(item.name() for item in items)


def _provenance(value: Value) -> Provenance:
    return {name: item.scalar() for name, item in value.any_fields().items()}
