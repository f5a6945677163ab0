"""Attention maps as a picture, after the paper's figure 7: a row for each image, a column for each node."""

from collections.abc import Sequence
from pathlib import Path

from kdhpc.graph.figure import plain_style, save_figure

# isort: split
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from kdhpc.report.examples import Overall, Sight, Sights, Verdict

_DPI = 200
_SIDE, _GAP, _TEXT, _HEAD, _FOOT, _TITLE = 1.45, 0.16, 0.56, 0.66, 0.66, 0.36
"""Of an image, between two, below one, above the first row, below the last, of the title: in inches."""
_COLOURS = "viridis"
_OPACITY = 0.6
_INK, _RIGHT, _WRONG = "#222222", "#00703c", "#b3261e"
_SMALL, _LARGE = 7.5, 10.5
_BOLD_WIDTH = 0.7
"""Of a bold character on average, as a multiple of the font size."""
_LETTERS = 25
"""That fit below an image."""


def draw_sights(sights: Sights, paths: Sequence[Path]) -> None:
    """Draw them to files that end in ``.svg`` or ``.png``; each appears whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    columns, rows = len(sights.nodes) + 1, len(sights.sights)
    width = columns * (_SIDE + _GAP) + _GAP
    height = _TITLE + _HEAD + rows * (_SIDE + _TEXT) + _FOOT
    with plain_style():
        page = _Page(Figure(figsize=(width, height), facecolor="white"), width, height)
        middle = width / 2
        size = min(_LARGE, (width - 2 * _GAP) * 72 / (_BOLD_WIDTH * len(sights.name)))
        page.write(middle, 0.14, sights.name, size=size, bold=True)
        _write_heads(page, sights)
        bar = None
        for row, sight in enumerate(sights.sights):
            top = _TITLE + _HEAD + row * (_SIDE + _TEXT)
            bar = _draw_row(page, sight, top)
        assert bar is not None, "a picture has an image at least"
        below = height - _FOOT
        page.draw_bar(bar, below + 0.1)
        page.write(middle, below + 0.38, "attention map, each from its lowest to its highest value", size=_SMALL)
        page.write(middle, below + 0.5, "entropy of the class probabilities in nats", size=_SMALL)
        save_figure(page.figure, paths, dpi=_DPI)


class _Page:
    """A figure in inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure = figure
        self._width = width
        self._height = height

    def image_axes(self, column: int, top: float) -> Axes:
        """A square for an image."""
        left = _GAP + column * (_SIDE + _GAP)
        axes = self._axes(left, top, _SIDE, _SIDE)
        axes.set_axis_off()
        return axes

    def draw_bar(self, shown: AxesImage, top: float) -> None:
        """What the colours mean."""
        length = min(2.4, self._width - 1.2)
        axes = self._axes((self._width - length) / 2, top, length, 0.1)
        bar = self.figure.colorbar(shown, cax=axes, orientation="horizontal")
        low, high = shown.get_clim()
        bar.set_ticks([low, high], labels=["lowest", "highest"], fontsize=_SMALL)
        axes.tick_params(length=0, pad=2)

    def write(self, x: float, y: float, text: str, *, size: float, colour: str = _INK, bold: bool = False) -> None:
        """Centred there, its top at y."""
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


def _write_heads(page: _Page, sights: Sights) -> None:
    heads = [("Ensemble", sights.ensemble)]
    heads += [(f"Node {number}", node) for number, node in enumerate(sights.nodes, start=1)]
    for column, (name, overall) in enumerate(heads):
        x = _middle(column)
        page.write(x, _TITLE + 0.04, name, size=9.5, bold=True)
        for line, text in enumerate(_overall(overall, sights)):
            page.write(x, _TITLE + 0.25 + 0.15 * line, text, size=_SMALL)


def _overall(overall: Overall, sights: Sights) -> tuple[str, str]:
    return f"accuracy {overall.accuracy:.2f} %", f"mean entropy {overall.entropy:.2f}"


def _draw_row(page: _Page, sight: Sight, top: float) -> AxesImage:
    below = top + _SIDE + 0.05
    page.image_axes(0, top).imshow(sight.image)
    page.write(_middle(0), below, _cut(f"{sight.index}: {sight.label}", _LETTERS), size=_SMALL)
    _write_verdict(page, _middle(0), below + 0.14, sight.ensemble)
    side = sight.image.shape[0]
    grey = sight.image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    shown: AxesImage | None = None
    for column, (seen, verdict) in enumerate(zip(sight.maps, sight.nodes, strict=True), start=1):
        axes = page.image_axes(column, top)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
        whole = (-0.5, side - 0.5, side - 0.5, -0.5)
        shown = axes.imshow(seen, cmap=_COLOURS, alpha=_OPACITY, extent=whole, interpolation="bilinear")
        _write_verdict(page, _middle(column), below, verdict)
    assert shown is not None, "a run has a node at least"
    return shown


def _write_verdict(page: _Page, x: float, top: float, verdict: Verdict) -> None:
    """A mark as well as a colour, for those who cannot tell green from red."""
    mark, colour = ("✓", _RIGHT) if verdict.right else ("✗", _WRONG)
    page.write(x, top, _cut(f"{mark} {verdict.answer}", _LETTERS), size=_SMALL, colour=colour)
    page.write(x, top + 0.14, f"entropy {verdict.entropy:.2f}", size=_SMALL)


def _middle(column: int) -> float:
    return _GAP + column * (_SIDE + _GAP) + _SIDE / 2


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
