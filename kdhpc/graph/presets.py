"""Presets, which are graphs with a name, and how commands load a graph by a name or from a file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from kdhpc.errors import GraphError, closest, nearest
from kdhpc.graph.node_space import NO_EDGE, EdgeKind
from kdhpc.graph.serial import PLUGIN_REMEDY, read_stored
from kdhpc.graph.space import edge_of
from kdhpc.graph.spec import MOST_NODES, Design, Gate, GraphSpec
from kdhpc.graph.zoo import graph_path, zoo_names


def independent(num_nodes: int) -> GraphSpec:
    """Every node learns from the labels alone. Source: paper section 5, "Independent"."""
    return _alike(num_nodes, NO_EDGE)


def uniform(num_nodes: int, design: Design) -> GraphSpec:
    """Every node learns from the labels and from every other node, by one design and ``through`` gates.

    Source: paper Fig. 3.
    """
    return _alike(num_nodes, EdgeKind(design, Gate.THROUGH))


def dml(num_nodes: int) -> GraphSpec:
    """Deep mutual learning: besides the labels, every node brings its probabilities closer to every other node's.

    Source: Zhang et al., "Deep Mutual Learning", CVPR 2018, as in the paper's section 5.
    """
    return uniform(num_nodes, Design.PROB_CLOSER)


class _Presets(Mapping[str, Callable[[int], GraphSpec]]):
    """One for each design that there is at the time, also of plug-ins."""

    def __getitem__(self, name: str) -> Callable[[int], GraphSpec]:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, Callable[[int], GraphSpec]]:
        alike = {f"uniform:{design}": partial(uniform, design=design) for design in Design}
        return {"dml": dml, "independent": independent, **alike}


PRESETS: Mapping[str, Callable[[int], GraphSpec]] = _Presets()
"""Presets by name, as functions of the number of nodes. ``uniform:prob+`` is the same as ``dml``."""


def load_graph(
    name_or_path: str,
    num_nodes: int | None = None,
    *,
    other_names: Iterable[str] = (),
    plugin_remedy: str = PLUGIN_REMEDY,
) -> GraphSpec:
    """Load a preset or a graph of the zoo by its name, or a graph from a file.

    Args:
        name_or_path: A name in ``PRESETS`` or of the zoo, or the path of a file. Write ``./dml`` for a file
            named like a preset.
        num_nodes: M. A preset needs it. The graph in a file must have as many nodes, if it is given.
        other_names: Further names that the caller accepts, for the error message.
        plugin_remedy: As for `kdhpc.graph.serial.parse_graph`.

    Raises:
        GraphError: there is neither a preset nor a file of that name, ``num_nodes`` is missing for a preset, or the
            file has another number of nodes or holds no graph.
    """
    if name_or_path in PRESETS:
        if num_nodes is None:
            raise GraphError(f"preset '{name_or_path}' needs a number of nodes: give one, 1 or more")
        return PRESETS[name_or_path](num_nodes)
    path = graph_path(name_or_path)
    if not path.exists():
        file = closest(path.name, (other.name for other in path.parent.glob("*.json")))
        known = [*PRESETS, *other_names, *zoo_names()]
        meant = nearest(name_or_path, known) if file is None else f"did you mean '{path.with_name(file)}'?"
        raise GraphError(f"graph '{name_or_path}' is neither a preset nor a file: {meant}")
    graph = read_stored(path, plugin_remedy=plugin_remedy).graph
    if num_nodes is not None and graph.num_nodes != num_nodes:
        raise GraphError(
            f"{name_or_path} has {graph.num_nodes} nodes, asked for were {num_nodes}: leave the number out"
        )
    return graph


def preset_label(preset: str, num_nodes: int) -> str:
    """A preset's short name, for folders: such as ``dml2``, or ``uniform3-att-`` for ``uniform:att-``."""
    kind, _, design = preset.partition(":")
    return f"{kind}{num_nodes}" + (f"-{design}" if design else "")


def _alike(num_nodes: int, kind: EdgeKind) -> GraphSpec:
    """The graph whose distillation edges are all of one kind."""
    if not 1 <= num_nodes <= MOST_NODES:
        raise GraphError(f"a graph of {num_nodes} nodes is not possible: allowed are 1 to {MOST_NODES}")
    pairs = [(source, target) for source in range(num_nodes) for target in range(num_nodes) if source != target]
    return GraphSpec(
        label_gates=(Gate.THROUGH,) * num_nodes,
        edges=tuple(edge_of(source, target, kind) for source, target in pairs),
    )
