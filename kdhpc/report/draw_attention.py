"""Attention maps as a picture, after the paper's figure 7: a row for each image, a column for each node.

Several runs are blocks of one picture: side by side, so that each image has one row; or below each other, where columns
are too many to be read beside each other.
"""

from collections.abc import Sequence
from pathlib import Path

from kdhpc.graph.figure import plain_style, save_figure

# isort: split
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from kdhpc.report.examples import AttentionExample, AttentionExamples, NodePrediction, Overall

_DPI = 200
_SIDE, _GAP, _TEXT, _HEAD, _FOOT, _TITLE = 1.45, 0.16, 0.56, 0.66, 0.66, 0.36
"""In inches: an image's side, the gap between images, and the heights of an image's text, head, foot and title."""
_BETWEEN = 0.3
"""In inches, between two runs."""
_MOST_BESIDE = 9
"""Columns that can be read beside each other."""
_COLOURS = "viridis"
_OPACITY = 0.6
_INK, _RIGHT, _WRONG = "#222222", "#00703c", "#b3261e"
_SMALL, _LARGE = 7.5, 10.5
_BOLD_WIDTH = 0.7
"""Average width of a bold character, as a multiple of the font size."""
_LETTERS = 24
"""Number of letters that fit below an image."""


def draw_attention(examples: AttentionExamples, paths: Sequence[Path]) -> None:
    """Draw attention examples to files that end in ``.svg`` or ``.png``. Each file appears whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    draw_comparison((examples,), paths)


def draw_comparison(runs: Sequence[AttentionExamples], paths: Sequence[Path]) -> None:
    """Draw the attention examples of one run or more, of the same images, as one picture.

    Raises:
        StorageError: the file system refuses.
    """
    widths = [_width(examples) for examples in runs]
    heights = [_TITLE + _HEAD + len(examples.examples) * (_SIDE + _TEXT) for examples in runs]
    if sum(len(examples.nodes) + 1 for examples in runs) <= _MOST_BESIDE:
        corners = [(sum(widths[:at]) + at * _BETWEEN, 0.0) for at in range(len(runs))]
    else:
        corners = [(0.0, sum(heights[:at]) + at * _BETWEEN) for at in range(len(runs))]
    ends = zip(corners, widths, heights, strict=True)
    width, below = map(max, zip(*((left + own, top + high) for (left, top), own, high in ends), strict=True))
    with plain_style():
        page = _Page(Figure(figsize=(width, below + _FOOT), facecolor="white"), width, below + _FOOT)
        shown = [
            _draw_block(page.within(left, top), examples) for examples, (left, top) in zip(runs, corners, strict=True)
        ]
        page.draw_bar(shown[0], below + 0.1)
        page.write(width / 2, below + 0.38, "attention map, each from its lowest to its highest value", size=_SMALL)
        page.write(width / 2, below + 0.5, "entropy of the class probabilities in nats", size=_SMALL)
        save_figure(page.figure, paths, dpi=_DPI)


def _width(examples: AttentionExamples) -> float:
    return (len(examples.nodes) + 1) * (_SIDE + _GAP) + _GAP


def _draw_block(page: "_Page", examples: AttentionExamples) -> AxesImage:
    """One run: its name, its heads and its images. What a map looks like, for the colour bar."""
    width = _width(examples)
    size = min(_LARGE, (width - 2 * _GAP) * 72 / (_BOLD_WIDTH * len(examples.name)))
    page.write(width / 2, 0.14, examples.name, size=size, bold=True)
    _write_heads(page, examples)
    rows = enumerate(examples.examples)
    shown = [_draw_row(page, example, _TITLE + _HEAD + row * (_SIDE + _TEXT)) for row, example in rows]
    return shown[0]


class _Page:
    """A figure, or a part of it, whose coordinates are inches from the part's upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float, corner: tuple[float, float] = (0.0, 0.0)) -> None:
        self.figure = figure
        self._width = width
        self._height = height
        self._left, self._top = corner

    def within(self, left: float, top: float) -> "_Page":
        """The part of it that begins there."""
        return _Page(self.figure, self._width, self._height, (self._left + left, self._top + top))

    def image_axes(self, column: int, top: float) -> Axes:
        """Axes for an image: a square in a column, ``top`` inches below the upper edge."""
        left = _GAP + column * (_SIDE + _GAP)
        axes = self._axes(left, top, _SIDE, _SIDE)
        axes.set_axis_off()
        return axes

    def draw_bar(self, shown: AxesImage, top: float) -> None:
        """Draw a colour bar, which says what the colours mean."""
        length = min(2.4, self._width - 1.2)
        axes = self._axes((self._width - length) / 2, top, length, 0.1)
        bar = self.figure.colorbar(shown, cax=axes, orientation="horizontal")
        low, high = shown.get_clim()
        bar.set_ticks([low, high], labels=["lowest", "highest"], fontsize=_SMALL)
        axes.tick_params(length=0, pad=2)

    def write(self, x: float, y: float, text: str, *, size: float, colour: str = _INK, bold: bool = False) -> None:
        """Write a text that is centred at x and has its top at y."""
        weight = "bold" if bold else "normal"
        drawn = self.figure.text(
            *((self._left + x) / self._width, 1 - (self._top + y) / self._height, text),
            ha="center",
            va="top",
            size=size,
            color=colour,
            weight=weight,
        )
        drawn.set_parse_math(False)  # a "$" in a class's name is a "$"

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        low = self._height - self._top - top - height
        return self.figure.add_axes(
            ((self._left + left) / self._width, low / self._height, width / self._width, height / self._height)
        )


def _write_heads(page: _Page, examples: AttentionExamples) -> None:
    heads = [("Ensemble", examples.ensemble)]
    heads += [(f"Node {number}", node) for number, node in enumerate(examples.nodes, start=1)]
    for column, (name, overall) in enumerate(heads):
        x = _middle(column)
        page.write(x, _TITLE + 0.04, name, size=9.5, bold=True)
        network = examples.networks[column - 1 : column] if column else ()
        for line, text in enumerate((*_overall(overall, examples), *network)):
            page.write(x, _TITLE + 0.24 + 0.14 * line, _cut(text, _LETTERS), size=_SMALL)


def _overall(overall: Overall, examples: AttentionExamples) -> tuple[str, str]:
    return f"accuracy {overall.accuracy:.2f} %", f"mean entropy {overall.entropy:.2f}"


def _draw_row(page: _Page, example: AttentionExample, top: float) -> AxesImage:
    below = top + _SIDE + 0.05
    page.image_axes(0, top).imshow(example.image)
    page.write(_middle(0), below, _cut(f"{example.index}: {example.label}", _LETTERS), size=_SMALL)
    _write_prediction(page, _middle(0), below + 0.14, example.ensemble)
    side = example.image.shape[0]
    grey = example.image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    shown: AxesImage | None = None
    for column, (seen, prediction) in enumerate(zip(example.maps, example.nodes, strict=True), start=1):
        axes = page.image_axes(column, top)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
        whole = (-0.5, side - 0.5, side - 0.5, -0.5)
        shown = axes.imshow(seen, cmap=_COLOURS, alpha=_OPACITY, extent=whole, interpolation="bilinear")
        _write_prediction(page, _middle(column), below, prediction)
    assert shown is not None, "a run has a node at least"
    return shown


def _write_prediction(page: _Page, x: float, top: float, prediction: NodePrediction) -> None:
    """Write a prediction with a mark as well as a colour, for readers who cannot tell green from red."""
    mark, colour = ("✓", _RIGHT) if prediction.correct else ("✗", _WRONG)
    page.write(x, top, _cut(f"{mark} {prediction.predicted}", _LETTERS), size=_SMALL, colour=colour)
    page.write(x, top + 0.14, f"entropy {prediction.entropy:.2f}", size=_SMALL)


def _middle(column: int) -> float:
    return _GAP + column * (_SIDE + _GAP) + _SIDE / 2


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
