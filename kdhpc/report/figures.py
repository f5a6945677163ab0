"""How the figures of a search's report are made: as wide as a phone's page, where their texts can still be read."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdhpc.graph.figure import plain_style, save_figure

# isort: split
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

from kdhpc.printing import one_line
from kdhpc.report.theme import light

WIDTH = 4.8
"""In inches."""
_DPI = 200
_LONGEST = 26
"""Characters of a name in a figure."""
_MARGIN = 0.06


@contextmanager
def new_figure(
    paths: Sequence[Path], height: float, width: float = WIDTH, *, is_laid_out: bool = True
) -> Iterator[Figure]:
    """A figure to draw into, in the colours of the theme. It is written at the end, each file whole or not at all.

    Args:
        paths: Files that end in ``.svg`` or ``.png``.
        height: In inches.
        width: In inches.
        is_laid_out: Let Matplotlib make room for labels.

    Raises:
        StorageError: the file system refuses.
    """
    ink = light("ink")
    with (
        plain_style(),
        warnings.catch_warnings(),
        rc_context(
            {
                "text.color": ink,
                "axes.labelcolor": ink,
                "xtick.color": ink,
                "ytick.color": ink,
                "axes.edgecolor": light("muted"),
                "font.size": 9,
                "hatch.linewidth": 0.8,
            }
        ),
    ):
        # The fonts have not every letter that a name may have. In an SVG, the viewer's fonts are used.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        engine = ConstrainedLayoutEngine(w_pad=_MARGIN, h_pad=_MARGIN) if is_laid_out else None
        figure = Figure(figsize=(width, height), layout=engine, facecolor=light("paper"))
        yield figure
        save_figure(figure, paths, dpi=_DPI)


def tidy(axes: Axes, *, is_counted: bool = False, has_bars: bool = False) -> None:
    """A grid, and no box around; whole numbers below if something is counted; no lines between rows of bars."""
    axes.set_facecolor("none")
    axes.grid(axis="x" if has_bars else "both", color=light("grid"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if is_counted:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows at 0, 1, ..., from above."""
    axes.set_yticks(list(range(len(names))), [short(name) for name in names])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)  # a "$" in a name is a "$"
    axes.set_ylim(len(names) - 0.4, -0.6)


def add_legend(axes: Axes) -> None:
    """A legend within the axes."""
    _write_names(axes.legend(loc="best", fontsize=8.5, framealpha=0.0))


def add_legend_above(figure: Figure) -> None:
    """A legend of all axes above them."""
    _write_names(figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8.5))


def _write_names(legend: Legend) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)  # a "$" in a name is a "$"


def short(name: str) -> str:
    """A name that fits into a figure."""
    name = one_line(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
