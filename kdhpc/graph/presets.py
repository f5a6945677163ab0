"""Graphs with a name, for comparisons; and the one way in which commands are told a graph."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from kdhpc.errors import GraphError, nearest
from kdhpc.graph.node_space import NO_TEACHING, Teaching
from kdhpc.graph.serial import read_graph
from kdhpc.graph.space import edge_of
from kdhpc.graph.spec import MOST_NODES, Design, Gate, GraphSpec


def independent(num_nodes: int) -> GraphSpec:
    """Every network learns from the labels alone. Source: paper section 5, "Independent"."""
    return _alike(num_nodes, NO_TEACHING)


def uniform(num_nodes: int, design: Design) -> GraphSpec:
    """Every network learns the labels, and from every other by one design, always. Source: paper Fig. 3."""
    return _alike(num_nodes, Teaching(design, Gate.THROUGH))


def dml(num_nodes: int) -> GraphSpec:
    """Deep mutual learning: every network also brings its probabilities closer to every other's.

    Source: Zhang et al., "Deep Mutual Learning", CVPR 2018, as in the paper's section 5.
    """
    return uniform(num_nodes, Design.PROB_CLOSER)


PRESETS: dict[str, Callable[[int], GraphSpec]] = {
    "dml": dml,
    "independent": independent,
    **{f"uniform:{design.value}": partial(uniform, design=design) for design in Design},
}
"""Presets by name; each takes the number of nodes. ``uniform:prob+`` is ``dml``."""


def load_graph(name_or_path: str, num_nodes: int | None = None, *, other_names: Iterable[str] = ()) -> GraphSpec:
    """A preset by name, else the graph in a file.

    Args:
        name_or_path: a name in ``PRESETS``, or a file's path (``./dml`` for a file that is called as a preset is).
        num_nodes: M; a preset needs it, a file must agree with it where it is given.
        other_names: names that the caller takes beside presets, for the message.

    Raises:
        GraphError: neither a preset nor a file, a preset without ``num_nodes``, a file with another number of nodes or
            without a graph.
    """
    if name_or_path in PRESETS:
        if num_nodes is None:
            raise GraphError(f"preset '{name_or_path}' needs a number of nodes: give one, 1 or more")
        return PRESETS[name_or_path](num_nodes)
    path = Path(name_or_path)
    if not path.exists():
        names = [*PRESETS, *other_names]
        raise GraphError(f"graph '{name_or_path}' is neither a preset nor a file: {nearest(name_or_path, names)}")
    graph = read_graph(path)
    if num_nodes is not None and graph.num_nodes != num_nodes:
        raise GraphError(f"{path} has {graph.num_nodes} nodes, asked for were {num_nodes}: leave the number out")
    return graph


def preset_label(preset: str, num_nodes: int) -> str:
    """A preset's short name, for folders: ``dml2``; ``uniform3-att-`` of ``uniform:att-``."""
    kind, _, design = preset.partition(":")
    return f"{kind}{num_nodes}" + (f"-{design}" if design else "")


def _alike(num_nodes: int, teaching: Teaching) -> GraphSpec:
    """The same on every distillation edge."""
    if not 1 <= num_nodes <= MOST_NODES:
        raise GraphError(f"a graph of {num_nodes} nodes is not possible: allowed are 1 to {MOST_NODES}")
    pairs = [(source, target) for source in range(num_nodes) for target in range(num_nodes) if source != target]
    return GraphSpec(
        label_gates=(Gate.THROUGH,) * num_nodes,
        edges=tuple(edge_of(source, target, teaching) for source, target in pairs),
    )
