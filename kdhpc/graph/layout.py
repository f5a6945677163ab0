"""Where everything of a drawing stands, without a drawing library.

The network nodes stand on a circle, node 1 on top or top left, numbered clockwise. The label node is above them; its
edges run around the outside and reach every node from without, so they cross no distillation edge. The ensemble node is
in the middle (below, where there are one or two network nodes): its thin lines carry no text.
"""

import cmath
import math
from dataclasses import dataclass

from kdhpc.graph.curves import Box, Curve
from kdhpc.graph.node_names import place_names
from kdhpc.graph.spec import Design, Gate, GraphSpec
from kdhpc.graph.tags import place_tags

NODE_RADIUS = 25.0
ENSEMBLE_RADIUS = 33.0
TAG_FONT_SIZE = 8.5
LINE_HEIGHT = 1.25
"""Of all texts, as a multiple of the font size."""
_CHARACTER_WIDTH = 0.63
"""Of the widest texts, as a multiple of the font size."""
_LABEL_WIDTH, _LABEL_HEIGHT = 60.0, 27.0
_BELOW = 120.0
"""From one or two network nodes down to the ensemble node."""
_ABOVE = 105.0
"""From the topmost network node up to the label node."""
_GAP = 1.5
"""Between an arrow's tip and the node."""
_NODE_SPACING = 42.0
"""Growth of the circle's radius with each node."""
_BOW = 0.11
"""How far each of two opposite edges bends away from the straight line, as a share of its length."""
_MAX_BOW = 25.0
_CLEARANCE = ENSEMBLE_RADIUS + 29.0
"""Distance that edges keep from the middle of the ensemble node."""


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """An edge as it is drawn."""

    design: Design | None
    """Of the distillation edge; None: a label edge."""
    gate: Gate
    """Of the edge."""
    curve: Curve
    """From rim to rim."""
    lines: tuple[str, ...]
    """Text of its tag."""
    tag: Box
    """Where the tag is; its middle is on the curve."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything in its place."""

    nodes: tuple[complex, ...]
    """Middles of the network nodes."""
    ensemble: complex
    """Middle of the ensemble node."""
    label: Box
    """The label node."""
    arrows: tuple[Arrow, ...]
    """All edges that are not cut off: label edges, then distillation edges."""
    names: tuple[Box, ...] = ()
    """Where the name of each node's network is; empty: the graph names none."""

    @property
    def frame(self) -> Box:
        """The smallest box around everything whose middle is right below the label node's."""
        around = _around(self.nodes, self.ensemble)
        boxes = [self.label, *around, *self.names, *(arrow.tag for arrow in self.arrows)]
        points = [corner for box in boxes for corner in box.corners]
        points += [arrow.curve.at(n / 40) for arrow in self.arrows for n in range(41)]
        reach = max(abs(point.real) for point in points)
        low, high = min(point.imag for point in points), max(point.imag for point in points)
        return Box(center=complex(0, (low + high) / 2), width=2 * reach, height=high - low)


def lay_out(graph: GraphSpec) -> Layout:
    """Place a graph's nodes, edges and texts."""
    radius = _circle_radius(graph.num_nodes)
    nodes = _on_circle(graph.num_nodes, radius)
    ensemble = 0j if graph.num_nodes > 2 else complex(0, -_BELOW)
    top = max(node.imag for node in nodes)
    label = Box(center=complex(0, top + _ABOVE), width=_LABEL_WIDTH, height=_LABEL_HEIGHT)
    edges: list[tuple[Design | None, Gate, Curve]] = [
        (None, gate, _label_curve(label, node, radius))
        for node, gate in zip(nodes, graph.label_gates, strict=True)
        if gate is not Gate.CUTOFF
    ]
    edges += [
        (
            edge.design,
            edge.gate,
            _edge_curve(nodes[edge.source], nodes[edge.target], ensemble, crowded=graph.num_nodes > 3),
        )
        for edge in graph.edges
        if edge.gate is not Gate.CUTOFF
    ]
    texts = [(gate.value,) if design is None else (design.value, gate.value) for design, gate, _ in edges]
    curves, around = [curve for _, _, curve in edges], [label, *_around(nodes, ensemble)]
    votes = [Curve(start=node, leave=node, arrive=ensemble, end=ensemble) for node in nodes]
    sizes = [text_box((name,)) for name in graph.networks]
    middles = nodes if sizes else ()
    names = place_names(middles, sizes, [*curves, *votes], around, radius=NODE_RADIUS)
    tags = place_tags(curves, [text_box(lines) for lines in texts], [*around, *names])
    arrows = tuple(
        Arrow(design=design, gate=gate, curve=curve, lines=lines, tag=tag)
        for (design, gate, curve), lines, tag in zip(edges, texts, tags, strict=True)
    )
    return Layout(nodes=nodes, ensemble=ensemble, label=label, arrows=arrows, names=names)


def _around(nodes: tuple[complex, ...], ensemble: complex) -> list[Box]:
    """Squares around the round nodes."""
    circles = [(node, NODE_RADIUS) for node in nodes] + [(ensemble, ENSEMBLE_RADIUS)]
    return [Box(center=middle, width=2 * radius, height=2 * radius) for middle, radius in circles]


def _circle_radius(num_nodes: int) -> float:
    return {1: 0.0, 2: 125.0, 3: 155.0, 4: 175.0}.get(num_nodes, _NODE_SPACING * num_nodes)


def _on_circle(num_nodes: int, radius: float) -> tuple[complex, ...]:
    first = math.pi / 2 + (math.pi / num_nodes if num_nodes % 2 == 0 else 0)
    return tuple(cmath.rect(radius, first - 2 * math.pi * n / num_nodes) for n in range(num_nodes))


def _edge_curve(source: complex, target: complex, ensemble: complex, *, crowded: bool) -> Curve:
    """An arc to the left of the straight line, so that a->b and b->a part.

    Of the two, the one on the ensemble node's side bends less, or even to the other side, where it would come near that
    node or where there are diagonals; the other one keeps its distance from it.
    """
    along = target - source
    bow = min(_BOW * abs(along), _MAX_BOW)
    # Distance of the ensemble node to the left of the line, negative to the right.
    left = ((ensemble - source) * along.conjugate()).imag / abs(along)
    inner = min(0.1 * bow if crowded else bow, abs(left) - _CLEARANCE)
    if abs(left) < 1e-6:
        inner = bow = _CLEARANCE
    bend = inner if left > 0 else 2 * bow - inner
    control = 4 / 3 * bend * 1j * along / abs(along)
    curve = Curve(start=source, leave=source + along / 3 + control, arrive=target - along / 3 + control, end=target)
    return curve.outside(NODE_RADIUS, NODE_RADIUS + _GAP)


def _label_curve(label: Box, node: complex, radius: float) -> Curve:
    """Around the outside to the node's far side; straight down to a node right below."""
    side = 0.0 if abs(node.real) < 1e-6 else math.copysign(1.0, node.real)
    if side == 0:
        start = label.center - 0.5j * label.height
        return Curve(start=start, leave=start, arrive=node, end=node).outside(0, NODE_RADIUS + _GAP)
    turn = math.acos(node.imag / radius)  # 0 on top, pi at the bottom
    start = label.center + 0.5 * side * label.width
    # Far nodes are reached on a wide bow, so that the nodes and edges between are left alone.
    leave = start + side * radius * 0.9 * (turn - 0.6)
    arrive = node * (0.9 + 0.4 * turn)
    return Curve(start=start, leave=leave, arrive=arrive, end=node).outside(0, NODE_RADIUS + _GAP)


def text_box(lines: tuple[str, ...]) -> Box:
    """Room for a tag's text, estimated so that it suffices for common sans-serif fonts."""
    width = max(map(len, lines)) * _CHARACTER_WIDTH * TAG_FONT_SIZE
    return Box(center=0j, width=width + 3, height=len(lines) * LINE_HEIGHT * TAG_FONT_SIZE + 2)
