"""Attention maps as a picture, after the paper's figure 7: a row for each image, a column for each node."""

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
_COLOURS = "viridis"
_OPACITY = 0.6
_INK, _RIGHT, _WRONG = "#222222", "#00703c", "#b3261e"
_SMALL, _LARGE = 7.5, 10.5
_BOLD_WIDTH = 0.7
"""Average width of a bold character, as a multiple of the font size."""
_LETTERS = 25
"""Number of letters that fit below an image."""


def draw_attention(examples: AttentionExamples, paths: Sequence[Path]) -> None:
    """Draw attention examples to files that end in ``.svg`` or ``.png``. Each file appears whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    columns, rows = len(examples.nodes) + 1, len(examples.examples)
    width = columns * (_SIDE + _GAP) + _GAP
    height = _TITLE + _HEAD + rows * (_SIDE + _TEXT) + _FOOT
    with plain_style():
        page = _Page(Figure(figsize=(width, height), facecolor="white"), width, height)
        middle = width / 2
        size = min(_LARGE, (width - 2 * _GAP) * 72 / (_BOLD_WIDTH * len(examples.name)))
        page.write(middle, 0.14, examples.name, size=size, bold=True)
        _write_heads(page, examples)
        bar = None
        for row, example in enumerate(examples.examples):
            top = _TITLE + _HEAD + row * (_SIDE + _TEXT)
            bar = _draw_row(page, example, top)
        assert bar is not None, "a picture has an image at least"
        below = height - _FOOT
        page.draw_bar(bar, below + 0.1)
        page.write(middle, below + 0.38, "attention map, each from its lowest to its highest value", size=_SMALL)
        page.write(middle, below + 0.5, "entropy of the class probabilities in nats", size=_SMALL)
        save_figure(page.figure, paths, dpi=_DPI)


class _Page:
    """A figure whose coordinates are inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure = figure
        self._width = width
        self._height = height

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
            *(x / self._width, 1 - y / self._height, text),
            ha="center",
            va="top",
            size=size,
            color=colour,
            weight=weight,
        )
        drawn.set_parse_math(False)  # a "$" in a class's name is a "$"

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        low = self._height - top - height
        return self.figure.add_axes(
            (left / self._width, low / self._height, width / self._width, height / self._height)
        )


def _write_heads(page: _Page, examples: AttentionExamples) -> None:
    heads = [("Ensemble", examples.ensemble)]
    heads += [(f"Node {number}", node) for number, node in enumerate(examples.nodes, start=1)]
    for column, (name, overall) in enumerate(heads):
        x = _middle(column)
        page.write(x, _TITLE + 0.04, name, size=9.5, bold=True)
        network = examples.networks[column - 1 : column] if column else ()
        for line, text in enumerate((*_overall(overall, examples), *network)):
            page.write(x, _TITLE + 0.25 + 0.15 * line, _cut(text, _LETTERS), size=_SMALL)


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
