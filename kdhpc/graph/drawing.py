"""Graphs as pictures, after the paper's figure 6: cutoff edges are left out, all others carry design and gate.

Matplotlib without pyplot: nothing global is left changed, and the same graph always gives the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

from kdhpc.graph.figure import ENDINGS, plain_style, save_figure

# isort: split
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import BoxStyle, Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Outline

from kdhpc.errors import GraphError
from kdhpc.graph.catalogue import design_entry, gate_entry
from kdhpc.graph.curves import Box
from kdhpc.graph.layout import (
    ENSEMBLE_RADIUS,
    LINE_HEIGHT,
    NODE_RADIUS,
    TAG_FONT_SIZE,
    Arrow,
    Layout,
    lay_out,
)
from kdhpc.graph.spec import Design, GraphSpec

_LABEL = ("#3d3d3d", "label edge")
_INK, _THIN, _GREY, _RED, _DARK_RED = "#222222", "#b5b5b5", "#d6d6d6", "#c62828", "#7f1414"
_MARGIN = 14.0
_TITLE_HEIGHT, _LEGEND_HEIGHT = 24.0, 34.0
_MIN_WIDTH = 370.0
_TITLE_SIZE, _MIN_TITLE_SIZE = 13.0, 10.0
"""A long title is written smaller, and a longer one makes the drawing wider."""
_CAPTION_SIZE, _CAPTION_HEIGHT, _PLAIN_WIDTH = 8.5, 15.0, 0.56
"""Font size and height of a caption, and the width of a character on average, as a multiple of the font size."""
_BOLD_WIDTH = 0.7
"""Of a bold character on average, as a multiple of the font size."""
_PNG_DPI = 150


def draw_graph(
    graph: GraphSpec,
    paths: Sequence[Path],
    *,
    title: str = "",
    node_accuracies: Sequence[float] | None = None,
    ensemble_accuracy: float | None = None,
    node_deviations: Sequence[float] | None = None,
    ensemble_deviation: float | None = None,
    caption: str = "",
) -> None:
    """Draw a graph to one or more files; each appears whole or not at all.

    Args:
        graph: the graph.
        paths: files that end in ``.svg`` or ``.png``.
        title: one line, shown above.
        node_accuracies: (M,) percent, shown in the nodes.
        ensemble_accuracy: percent, shown in the ensemble node.
        node_deviations: (M,) percent, shown with the accuracies: standard deviations over seeds.
        ensemble_deviation: percent, of the ensemble's accuracy.
        caption: one line, shown below.

    Raises:
        GraphError: another ending, or not one accuracy, or deviation, a node.
        StorageError: the file system refuses.
    """
    for what, given in (("accuracies", node_accuracies), ("deviations", node_deviations)):
        if given is not None and len(given) != graph.num_nodes:
            raise GraphError(f"{len(given)} node {what} for a graph of {graph.num_nodes} nodes: give one each")
    for path in paths:
        if path.suffix not in ENDINGS:
            raise GraphError(f"{path} cannot be a drawing: its name must end in {' or '.join(ENDINGS)}")
    with plain_style():
        nodes = _texts(node_accuracies, node_deviations, graph.num_nodes)
        (ensemble,) = _texts([ensemble_accuracy], [ensemble_deviation], 1)
        figure = _figure(graph, title, caption, nodes, ensemble)
        save_figure(figure, paths, dpi=_PNG_DPI)


def _texts(
    accuracies: Sequence[float | None] | None, deviations: Sequence[float | None] | None, number: int
) -> list[tuple[str, ...]]:
    """What is written in each node: its accuracy; with a standard deviation, on two lines."""
    pairs = zip(accuracies or [None] * number, deviations or [None] * number, strict=True)
    return [
        ()
        if accuracy is None
        else (f"({accuracy:.2f})",)
        if deviation is None
        else (f"{accuracy:.2f}", f"± {deviation:.2f}")
        for accuracy, deviation in pairs
    ]


def _figure(
    graph: GraphSpec, title: str, caption: str, node_texts: list[tuple[str, ...]], ensemble_texts: tuple[str, ...]
) -> Figure:
    layout = lay_out(graph)
    figure, axes = _canvas(layout, title, caption)
    for node in layout.nodes:
        ends = (node, layout.ensemble)
        axes.plot([end.real for end in ends], [end.imag for end in ends], color=_THIN, linewidth=0.8, zorder=1)
    for arrow in layout.arrows:
        _draw_arrow(axes, arrow)
    for node, (middle, texts) in enumerate(zip(layout.nodes, node_texts, strict=True)):
        _draw_node(axes, middle, str(node + 1), texts, learns=node not in graph.unlearned_nodes)
    for box, name in zip(layout.names, graph.networks, strict=True):
        _draw_name(axes, box, name)
    axes.add_patch(Circle(_xy(layout.ensemble), ENSEMBLE_RADIUS, facecolor=_RED, edgecolor=_DARK_RED, zorder=3))
    _write_in_node(axes, layout.ensemble, "Ensemble", ensemble_texts, size=10, colour="white")
    _draw_label(axes, layout.label)
    _draw_legend(axes, layout, raised=_CAPTION_HEIGHT if caption else 0)
    return figure


def _canvas(layout: Layout, title: str, caption: str) -> tuple[Figure, Axes]:
    """A figure that the axes fill, one unit of x and y a typographic point."""
    frame = layout.frame
    texts = (_MIN_TITLE_SIZE * _BOLD_WIDTH * len(title), _CAPTION_SIZE * _PLAIN_WIDTH * len(caption))
    width = 2 * _MARGIN + max(frame.width, _MIN_WIDTH, *texts)
    low = frame.corners[0].imag - _MARGIN - _LEGEND_HEIGHT - (_CAPTION_HEIGHT if caption else 0)
    high = frame.corners[1].imag + _MARGIN + (_TITLE_HEIGHT if title else 0)
    figure = Figure(figsize=(width / 72, (high - low) / 72), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-width / 2, width / 2), ylim=(low, high))
    axes.set_axis_off()
    if title:
        size = min(_TITLE_SIZE, (width - 2 * _MARGIN) / (_BOLD_WIDTH * len(title)))
        _write(axes, complex(0, high - _MARGIN - 4), title, size=size, bold=True)
    if caption:
        _write(axes, complex(0, low + _CAPTION_HEIGHT / 2 + 1), caption, size=_CAPTION_SIZE)
    return figure, axes


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    points = [_xy(point) for point in (arrow.curve.start, arrow.curve.leave, arrow.curve.arrive, arrow.curve.end)]
    outline = Outline(points, [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4])
    colour, _ = _look(arrow)
    style = gate_entry(arrow.gate).line
    # A head has the line's style: where that has gaps, it is drawn by itself, without an outline, and a little larger.
    parts = [("-|>", 1.3, 11, style)] if style == "solid" else [("-", 1.3, 11, style), ("-|>", 0, 13, "solid")]
    for ends, width, size, line_style in parts:
        axes.add_patch(
            FancyArrowPatch(
                path=outline,
                arrowstyle=ends,
                mutation_scale=size,
                linewidth=width,
                linestyle=line_style,
                color=colour,
                zorder=2,
            )
        )
    tag = arrow.tag
    axes.add_patch(Rectangle(_xy(tag.corners[0]), tag.width, tag.height, facecolor="white", edgecolor="none", zorder=4))
    # One text a line: an SVG centres it whatever font its viewer has.
    for row, line in enumerate(arrow.lines):
        lift = ((len(arrow.lines) - 1) / 2 - row) * LINE_HEIGHT * TAG_FONT_SIZE * 1j
        _write(axes, tag.center + lift, line, size=TAG_FONT_SIZE, colour=colour)


def _draw_node(axes: Axes, middle: complex, name: str, accuracy: tuple[str, ...], *, learns: bool) -> None:
    """A node whose incoming edges are all cut off is hollow and dashed, and says so."""
    face, line = (_GREY, "solid") if learns else ("white", "dashed")
    axes.add_patch(Circle(_xy(middle), NODE_RADIUS, facecolor=face, edgecolor=_INK, linestyle=line, zorder=3))
    _write_in_node(axes, middle, name, (*(() if learns else ("untrained",)), *accuracy), size=13, colour=_INK)


def _draw_name(axes: Axes, box: Box, name: str) -> None:
    """The name of a node's network, beside the node."""
    low = _xy(box.corners[0])
    axes.add_patch(Rectangle(low, box.width, box.height, facecolor="white", edgecolor="none", zorder=4))
    _write(axes, box.center, name, size=TAG_FONT_SIZE, colour=_INK)


def _draw_label(axes: Axes, label: Box) -> None:
    style = BoxStyle.Round(pad=0, rounding_size=6)
    x, y = _xy(label.corners[0])
    axes.add_patch(
        FancyBboxPatch((x, y), label.width, label.height, boxstyle=style, facecolor="white", edgecolor=_INK, zorder=3)
    )
    _write(axes, label.center, "Label", size=11, bold=True)


def _look(arrow: Arrow) -> tuple[str, str]:
    """The colour, and what it means."""
    if arrow.design is None:
        return _LABEL
    entry = design_entry(arrow.design)
    return entry.colour, entry.meaning


def _draw_legend(axes: Axes, layout: Layout, *, raised: float) -> None:
    """What the colours mean, as far as they are there; ``raised`` above the lower edge, in points."""
    there = {_look(arrow) for arrow in layout.arrows}
    known = dict.fromkeys((_LABEL, *((entry.colour, entry.meaning) for entry in map(design_entry, Design))))
    handles = [Line2D([], [], color=look[0], linewidth=1.8, label=look[1]) for look in known if look in there]
    handles.append(Line2D([], [], color=_THIN, linewidth=1.0, label="votes"))
    low, high = axes.get_ylim()
    axes.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, raised / (high - low)),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handlelength=1.8,
    )


def _write_in_node(
    axes: Axes, middle: complex, name: str, remarks: tuple[str, ...], *, size: float, colour: str
) -> None:
    """A name, and smaller below it the remarks."""
    _write(axes, middle + 5j * len(remarks), name, size=size, colour=colour, bold=True)
    for row, remark in enumerate(remarks):
        _write(axes, middle + 5j * len(remarks) - (14.0 + 9.5 * row) * 1j, remark, size=7.5, colour=colour)


def _write(axes: Axes, middle: complex, text: str, *, size: float, colour: str = _INK, bold: bool = False) -> None:
    weight = "bold" if bold else "normal"
    x, y = _xy(middle)
    drawn = axes.text(x, y, text, ha="center", va="center_baseline", size=size, color=colour, weight=weight, zorder=5)
    drawn.set_parse_math(False)  # a "$" in a study's name is a "$"


def _xy(point: complex) -> tuple[float, float]:
    return point.real, point.imag
