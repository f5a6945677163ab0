"""Where on its edge a tag stands, so that it can be read: clear of nodes and other tags, off other edges."""

from collections.abc import Sequence

from kdhpc.graph.curves import Box, Curve

_PLACES = tuple(n / 32 for n in range(5, 28))
"""Where on its curve a tag may be."""
_SAMPLES = tuple(n / 24 for n in range(25))
"""Points of a curve at which it is checked whether the curve runs through a tag."""
_MARGIN = 3.0
"""Free space that is wanted around a tag, in points."""
_MAX_ROUNDS = 20

_COVERED = 100.0
_CROSSED = 1.0
_OFF_CENTER = 4.0


def place_tags(curves: Sequence[Curve], sizes: Sequence[Box], obstacles: Sequence[Box]) -> tuple[Box, ...]:
    """Put each tag on its curve.

    A cost is lowered one tag at a time until no move of a single tag lowers it: for covering an obstacle or another tag
    by far the most, less for lying on another curve, least for leaving the curve's middle.

    Args:
        curves: one for each edge.
        sizes: sizes of their tags; where these boxes lie does not matter.
        obstacles: what no tag may cover.

    Returns:
        The tags in the same order.
    """
    choices = [
        [Box(center=curve.at(t), width=size.width, height=size.height) for t in _PLACES]
        for curve, size in zip(curves, sizes, strict=True)
    ]
    own = [
        [_own_cost(box, t, obstacles, [*curves[:i], *curves[i + 1 :]]) for box, t in zip(boxes, _PLACES, strict=True)]
        for i, boxes in enumerate(choices)
    ]
    chosen = [len(_PLACES) // 2] * len(curves)
    for _ in range(_MAX_ROUNDS):
        before = list(chosen)
        for i, boxes in enumerate(choices):
            others = [choices[j][chosen[j]] for j in range(len(curves)) if j != i]
            costs = [cost + _covered(box, others) for box, cost in zip(boxes, own[i], strict=True)]
            chosen[i] = costs.index(min(costs))
        if chosen == before:
            break
    return tuple(boxes[place] for boxes, place in zip(choices, chosen, strict=True))


def _own_cost(box: Box, t: float, obstacles: Sequence[Box], curves: Sequence[Curve]) -> float:
    crossed = sum(box.distance(curve.at(s)) < _MARGIN for curve in curves for s in _SAMPLES)
    return _covered(box, obstacles) + _CROSSED * crossed + _OFF_CENTER * abs(t - 0.5)


def _covered(box: Box, others: Sequence[Box]) -> float:
    wide = Box(center=box.center, width=box.width + 2 * _MARGIN, height=box.height + 2 * _MARGIN)
    return _COVERED * sum(wide.overlap(other) for other in others) / (box.width * box.height)
