"""Where the name of a node's network stands: beside its node, where it hides the least."""

from collections.abc import Sequence

from kdhpc.graph.curves import Box, Curve

_GAP = 3.0
_SAMPLES = 40
_COVERED = 1000.0


def place_names(
    nodes: Sequence[complex], sizes: Sequence[Box], curves: Sequence[Curve], others: Sequence[Box], *, radius: float
) -> tuple[Box, ...]:
    """A box for each name: below its node, or above, right or left of it where fewer edges cross.

    Args:
        nodes: Middles of the nodes.
        sizes: Of the names, wherever they are.
        curves: Edges, and other lines that a name should not hide.
        others: What no name may cover.
        radius: Of a node.
    """
    points = [curve.at(n / _SAMPLES) for curve in curves for n in range(_SAMPLES + 1)]
    placed: list[Box] = []
    for node, size in zip(nodes, sizes, strict=True):
        down, aside = radius + _GAP + size.height / 2, radius + _GAP + size.width / 2
        places = [node - down * 1j, node + down * 1j, node + aside, node - aside]
        boxes = [Box(center=place, width=size.width, height=size.height) for place in places]
        placed.append(min(boxes, key=lambda box: _cost(box, points, [*others, *placed])))
    return tuple(placed)


def _cost(box: Box, points: Sequence[complex], others: Sequence[Box]) -> float:
    """Points that it hides; covering something else counts more than any edge."""
    num_hidden = sum(box.distance(point) == 0 for point in points)
    return num_hidden + _COVERED * sum(box.overlap(other) for other in others)
