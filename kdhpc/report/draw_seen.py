"""One image as a picture: what the networks of an ensemble see, where each of them looks, and what each says."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from kdhpc.graph.figure import plain_style, save_figure

# isort: split
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kdhpc.printing import one_line

_DPI = 150
_SIDE, _GAP, _TITLE, _HEAD, _LINE, _FOOT = 1.7, 0.18, 0.34, 0.24, 0.15, 0.12
"""In inches: an image's side, the gap between images, and heights: of title, head, a line of text, and foot."""
_COLOURS = "viridis"
_OPACITY = 0.6
_INK = "#222222"
_SMALL, _LARGE = 7.5, 10.0
_LETTERS = 27
"""Number of letters that fit below an image."""
_LETTERS_OF_HEAD = 21
"""The same above an image."""
_LETTERS_OF_TITLE = 19
"""The same for the title, for each image's width."""


def draw_seen(
    title: str,
    image: NDArray[np.float32],
    maps: Sequence[NDArray[np.float32]],
    columns: Sequence[tuple[str, Sequence[str]]],
    path: Path,
) -> None:
    """Draw an image, and the attention map of each node over it, to a file that ends in ``.png`` or ``.svg``.

    Args:
        title: Above all.
        image: (S, S, 3), values from 0 to 1.
        maps: For each node (h, w), 0 or more. Colours go from each map's lowest to its highest value.
        columns: For the image and then for each node, what stands above it and the lines below it.
        path: The file, which appears whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    num_lines = max(len(lines) for _, lines in columns)
    width = len(columns) * (_SIDE + _GAP) + _GAP
    height = _TITLE + _HEAD + _SIDE + num_lines * _LINE + _FOOT
    grey = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    with plain_style(), warnings.catch_warnings():
        # Of signs that the font does not have, which are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph ")
        figure = Figure(figsize=(width, height), facecolor="white")

        def write(x: float, y: float, text: str, *, size: float, weight: str = "normal") -> None:
            drawn = figure.text(
                *(x / width, 1 - y / height, one_line(text)),
                ha="center",
                va="top",
                size=size,
                color=_INK,
                weight=weight,
            )
            drawn.set_parse_math(False)  # A "$" in a file's name is a "$".

        write(width / 2, 0.12, _end_of(one_line(title), _LETTERS_OF_TITLE * len(columns)), size=_LARGE, weight="bold")
        top = _TITLE + _HEAD
        for column, (head, lines) in enumerate(columns):
            left = _GAP + column * (_SIDE + _GAP)
            place = (left / width, (height - top - _SIDE) / height, _SIDE / width, _SIDE / height)
            axes = figure.add_axes(place)
            axes.set_axis_off()
            if column == 0:
                axes.imshow(image)
            else:
                side = len(image) - 0.5
                axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
                whole = (-0.5, side, side, -0.5)
                axes.imshow(maps[column - 1], cmap=_COLOURS, alpha=_OPACITY, extent=whole, interpolation="bilinear")
            write(left + _SIDE / 2, _TITLE + 0.06, _start_of(head, _LETTERS_OF_HEAD), size=_SMALL + 1, weight="bold")
            for number, line in enumerate(lines):
                y = top + _SIDE + 0.05 + number * _LINE
                write(left + _SIDE / 2, y, _start_of(line, _LETTERS), size=_SMALL)
        save_figure(figure, [path], dpi=_DPI)


def _start_of(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _end_of(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"…{text[-(letters - 1) :]}"
