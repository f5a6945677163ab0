"""Graphs as text, for terminals: nodes are columns, and every edge that counts is an arrow on a line of its own.

                        1          2
                     resnet8    resnet20
    labels           through     linear
                        │          │
    prob+  through      ├─────────▶│
    att-   linear       │◀─────────┤
                        └──────────┘
                          ensemble

Where that finds no room, or nodes are many, there is a list instead: who teaches each node, and how.
"""

import textwrap
from dataclasses import dataclass

from kdhpc.graph.spec import DistillationEdge, Gate, GraphSpec

_MOST_COLUMNS = 5
"""More nodes have so many edges that arrows are harder to follow than words."""
_LEAST_COLUMN = 6
_LABELS, _UNTRAINED, _ENSEMBLE = "labels", "untrained", "ensemble"


@dataclass(frozen=True, kw_only=True)
class _Strokes:
    """What lines are made of."""

    down: str
    along: str
    leaves_right: str
    leaves_left: str
    right: str
    left: str
    crossing: str
    low_left: str
    low_right: str
    low: str


_UNICODE = _Strokes(
    down="│",
    along="─",
    leaves_right="├",
    leaves_left="┤",
    right="▶",
    left="◀",
    crossing="┼",
    low_left="└",
    low_right="┘",
    low="┴",
)
_ASCII = _Strokes(
    down="|",
    along="-",
    leaves_right="+",
    leaves_left="+",
    right=">",
    left="<",
    crossing="|",
    low_left="+",
    low_right="+",
    low="+",
)


def draw_in_text(graph: GraphSpec, *, width: int, is_ascii: bool = False) -> tuple[str, ...]:
    """The lines of a graph's drawing.

    Args:
        graph: the graph.
        width: of the terminal, in characters. No line is wider, unless a name alone is.
        is_ascii: no other characters can be shown.
    """
    named = len(set(graph.networks)) > 1
    strokes = _ASCII if is_ascii else _UNICODE
    if graph.num_nodes <= _MOST_COLUMNS:
        for with_networks in (True, False) if named else (False,):
            columns = _columns(graph, with_networks=with_networks)
            if columns[-1] + columns[0] - _margin(graph) <= width:
                lines = _drawing(graph, columns, strokes, with_networks=with_networks)
                return (*lines, *(() if with_networks or not named else _networks(graph, width)), *_cut_off(graph))
    return (*_list(graph, width), *_cut_off(graph))


def _edges(graph: GraphSpec) -> list[DistillationEdge]:
    return [edge for edge in graph.edges if edge.gate is not Gate.CUTOFF]


def _label(graph: GraphSpec, node: int) -> str:
    return _UNTRAINED if node in graph.unlearned_nodes else graph.label_gates[node].value


def _widest_design(graph: GraphSpec) -> int:
    return max((len(edge.design.value) for edge in _edges(graph)), default=0)


def _margin(graph: GraphSpec) -> int:
    """Width of the words to the left of the nodes."""
    gates = max((len(edge.gate.value) for edge in _edges(graph)), default=0)
    return max(len(_LABELS), _widest_design(graph) + 2 + gates) + 2


def _columns(graph: GraphSpec, *, with_networks: bool) -> list[int]:
    """Where the nodes stand: middles of columns that are all equally wide."""
    words = [_label(graph, node) for node in range(graph.num_nodes)]
    words += graph.networks if with_networks else ()
    widest = max(_LEAST_COLUMN, *(len(word) + 2 for word in words))
    return [_margin(graph) + widest // 2 + widest * node for node in range(graph.num_nodes)]


def _drawing(graph: GraphSpec, columns: list[int], strokes: _Strokes, *, with_networks: bool) -> tuple[str, ...]:
    nodes = range(graph.num_nodes)
    lifelines = _placed(dict.fromkeys(columns, strokes.down))
    lines = [_centred("", columns, [str(node + 1) for node in nodes])]
    if with_networks:
        lines.append(_centred("", columns, list(graph.networks)))
    lines += [_centred(_LABELS, columns, [_label(graph, node) for node in nodes]), lifelines]
    design_width = _widest_design(graph)
    for edge in _edges(graph):
        words = f"{edge.design.value.ljust(design_width)}  {edge.gate.value}"
        lines.append(_placed(_arrow(edge, columns, strokes), words))
    first, last = columns[0], columns[-1]
    if graph.num_nodes > 1:
        foot = dict.fromkeys(range(first, last), strokes.along) | dict.fromkeys(columns, strokes.low)
        lines.append(_placed(foot | {first: strokes.low_left, last: strokes.low_right}))
    return (*lines, _centred("", [(first + last) // 2], [_ENSEMBLE]))


def _arrow(edge: DistillationEdge, columns: list[int], strokes: _Strokes) -> dict[int, str]:
    """The characters of an edge's line, by place."""
    source, target = columns[edge.source], columns[edge.target]
    low, high = min(source, target), max(source, target)
    line = dict.fromkeys(range(low + 1, high), strokes.along)
    line |= {column: strokes.crossing if low < column < high else strokes.down for column in columns}
    if source < target:
        return line | {source: strokes.leaves_right, target - 1: strokes.right}
    return line | {source: strokes.leaves_left, target + 1: strokes.left}


def _placed(characters: dict[int, str], words: str = "") -> str:
    """A line with each character in its place, and words at its beginning."""
    line = list(words.ljust(max(characters) + 1))
    for place, character in characters.items():
        line[place] = character
    return "".join(line)


def _centred(head: str, columns: list[int], words: list[str]) -> str:
    """A line with words around the middles of columns, and another one at its beginning."""
    line = head
    for column, word in zip(columns, words, strict=True):
        line = line.ljust(column - len(word) // 2) + word
    return line


def _list(graph: GraphSpec, width: int) -> list[str]:
    """For each node, who teaches it, and how."""
    lines: list[str] = []
    for node in range(graph.num_nodes):
        network = f" ({graph.networks[node]})" if graph.networks else ""
        by_labels = [] if graph.label_gates[node] is Gate.CUTOFF else [f"{_LABELS} ({graph.label_gates[node].value})"]
        by_nodes = [
            f"{edge.source + 1} ({edge.design.value} {edge.gate.value})"
            for edge in _edges(graph)
            if edge.target == node
        ]
        lines += _wrapped(f"node {node + 1}{network} learns from ", [*by_labels, *by_nodes] or ["nobody"], width)
    return lines


def _networks(graph: GraphSpec, width: int) -> list[str]:
    return _wrapped("networks ", [f"{node + 1} {name}" for node, name in enumerate(graph.networks)], width)


def _wrapped(head: str, parts: list[str], width: int) -> list[str]:
    """Parts with commas between, none of which is broken."""
    text = head + ", ".join(part.replace(" ", "\0") for part in parts)
    lines = textwrap.wrap(
        text, max(width, 20), subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\0", " ") for line in lines]


def _cut_off(graph: GraphSpec) -> list[str]:
    num_cut_off = len(graph.edges) - len(_edges(graph))
    return [f"{num_cut_off} of {len(graph.edges)} edges between nodes are cut off"] if num_cut_off else []
