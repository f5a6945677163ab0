"""Graphs for Python users: from a file, or by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdhpc.errors import GraphError
from kdhpc.graph import presets
from kdhpc.graph.plugins import load_plugins
from kdhpc.graph.serial import Provenance, read_stored, to_json, write_graph
from kdhpc.graph.space import graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.graph.zoo import graph_path


@dataclass(frozen=True, kw_only=True, repr=False)
class Graph:
    """Which network teaches which, how, and when.

    >>> import kdhpc
    >>> graph = kdhpc.dml(3)
    >>> graph
    <Graph 'dml3' of 3 nodes>
    """

    spec: GraphSpec
    """The nodes and edges."""
    name: str
    """Short name, for folders."""
    source: str | None = None
    """The file or the preset that it comes from, as ``kdhpc train --graph`` takes it; None: made in Python."""
    provenance: Provenance | None = None
    """What its file says about the search that found it."""

    def __repr__(self) -> str:
        return f"<Graph {self.name!r} of {self.num_nodes} nodes>"

    @property
    def num_nodes(self) -> int:
        """M, the networks of the ensemble."""
        return self.spec.num_nodes

    @property
    def key(self) -> str:
        """Names the graph by what it does: graphs with the same effect have the same key."""
        return graph_key(self.spec)

    def to_json(self) -> str:
        """The text of a graph's file."""
        return to_json(self.spec, self.provenance)

    def save(self, path: str | Path) -> None:
        """Write a file that :func:`load_graph` and ``kdhpc train --graph`` read.

        Raises:
            StorageError: the file system refuses.
        """
        write_graph(Path(path), self.spec, self.provenance)

    def draw(self, *paths: str | Path) -> None:
        """Draw the graph into files that end in ``.png`` or ``.svg``.

        Raises:
            StorageError: the file system refuses.
        """
        from kdhpc.graph.drawing import draw_graph  # Matplotlib is slow to import.

        draw_graph(self.spec, tuple(map(Path, paths)), title=self.name)


def load_graph(source: str | Path, num_nodes: int | None = None, *, plugins: Sequence[str] = ()) -> Graph:
    """A graph from a file, or a preset by its name.

    Args:
        source: A file that ``kdhpc export-best`` or :meth:`Graph.save` wrote, or the name of a preset:
            ``independent``, ``dml``, ``uniform:att-``, ...
        num_nodes: M. A preset needs it; a file must agree with it where it is given.
        plugins: Modules of designs and gates of one's own, which the graph may then have.

    Returns:
        The graph.

    Raises:
        ConfigError: a plug-in cannot be imported.
        GraphError: neither a preset nor a graph of the zoo nor a file, a file without a graph, or a graph of
            another number of nodes.
        StorageError: the file system refuses.

    >>> import kdhpc
    >>> kdhpc.load_graph("uniform:att-", 2).spec.edges[0].design.value
    'att-'
    """
    load_plugins(plugins)
    source = str(source)
    spec = presets.load_graph(source, num_nodes)
    if source in presets.PRESETS:
        return Graph(spec=spec, name=presets.preset_label(source, spec.num_nodes), source=source)
    path = graph_path(source)
    return Graph(spec=spec, name=path.stem, source=source, provenance=read_stored(path).provenance)


def dml(num_nodes: int) -> Graph:
    """Deep mutual learning: every network brings its probabilities closer to every other's.

    Source: Zhang et al., "Deep Mutual Learning", CVPR 2018.

    Raises:
        GraphError: a number of nodes that is not possible.

    >>> import kdhpc
    >>> kdhpc.dml(2).num_nodes
    2
    """
    return load_graph("dml", num_nodes)


def independent(num_nodes: int) -> Graph:
    """Every network learns from the labels alone.

    Raises:
        GraphError: a number of nodes that is not possible.

    >>> import kdhpc
    >>> kdhpc.independent(4).name
    'independent4'
    """
    return load_graph("independent", num_nodes)


def as_graph(graph: "Graph | GraphSpec | str | Path", num_nodes: object = None) -> Graph:
    """What a user gave as a graph: also a bare specification, a path, or the name of a preset with ``num_nodes``.

    Raises:
        GraphError: it is none.
    """
    if isinstance(graph, Graph):
        return graph
    if isinstance(graph, GraphSpec):
        return Graph(spec=graph, name=f"graph-{graph_key(graph)}")
    if isinstance(graph, (str, Path)):
        return load_graph(graph, num_nodes if isinstance(num_nodes, int) else None)
    raise GraphError(
        f"a {type(graph).__name__} is no graph: give kdhpc.load_graph(FILE), kdhpc.dml(M) or kdhpc.independent(M)"
    )
