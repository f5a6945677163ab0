"""What the best trials of a search chose, as figures."""

from collections.abc import Sequence
from pathlib import Path

from kdhpc.report.figures import WIDTH, new_figure, short, tidy

# isort: split
from matplotlib.patches import Rectangle

from kdhpc.report.search_choices import ChoiceShare, ParameterChoices
from kdhpc.report.theme import light

_MOST_BARS = 20
_CELL_INK = "#20242a"
"""On cells, which have their own colours on every page."""
_NEUTRAL, _MORE, _LESS = (240, 241, 243), (78, 156, 214), (240, 150, 72)
_FULL = 4.0
"""Standard errors from the expected share at which a cell has its full colour."""


def draw_importance(parameters: Sequence[ParameterChoices], paths: Sequence[Path]) -> None:
    """The most important parameters, as bars.

    Args:
        parameters: In any order, at least one.
        paths: Files that end in ``.svg`` or ``.png``.

    Raises:
        StorageError: the file system refuses.
    """
    shown = sorted(parameters, key=lambda one: -one.importance)[:_MOST_BARS]
    colours = {"gate": ("blue", ""), "design": ("orange", "////"), "network": ("green", "\\\\\\\\")}
    with new_figure(paths, 0.8 + 0.21 * max(3, len(shown))) as figure:
        axes = figure.add_subplot()
        for row, one in enumerate(shown):
            colour, hatch = colours[one.kind]
            axes.barh(row, one.importance, color=light(colour), hatch=hatch, edgecolor=light("paper"), linewidth=0)
        axes.set_yticks(list(range(len(shown))), [one.label for one in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("importance (of all parameters together 1)")
        axes.set_xlim(left=0)
        tidy(axes, has_bars=True)


def draw_shares(parameters: Sequence[ParameterChoices], paths: Sequence[Path]) -> None:
    """A table of the shares among the best trials: a row for each edge or node, a column for each choice.

    Cells are bluer the more a choice is used beyond its expected share, and more orange the less it is. What few
    standard errors may explain is nearly grey.

    Args:
        parameters: Gates and designs of edges, or networks of nodes; at least one.
        paths: Files that end in ``.svg`` or ``.png``.

    Raises:
        StorageError: the file system refuses.
    """
    rows = list(dict.fromkeys(one.edge for one in parameters))
    kinds = list(dict.fromkeys(one.kind for one in parameters))
    columns = list(
        dict.fromkeys(
            (kind, choice.name) for kind in kinds for one in parameters if one.kind == kind for choice in one.choices
        )
    )
    longest = max(len(short(name)) for _, name in columns)
    head = 0.25 + 0.075 * longest
    cell, left = max(0.36, min(0.62, (WIDTH - 0.8) / len(columns))), 0.72
    width = max(WIDTH, left + cell * len(columns) + 0.08 + 0.12 * len(kinds))
    height = head + 0.24 * len(rows) + 0.1
    with new_figure(paths, height, width, is_laid_out=False) as figure:
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        # Parts of a parameter stand together.
        place = {
            column: left + cell * (index + 0.5) + 0.12 * kinds.index(column[0]) for index, column in enumerate(columns)
        }
        for (_, name), x in place.items():
            axes.text(x, head - 0.05, short(name), rotation=90, ha="center", va="bottom", parse_math=False, size=8.5)
        for row, edge in enumerate(rows):
            axes.text(left - 0.08, head + 0.24 * (row + 0.5), edge, ha="right", va="center")
        for one in parameters:
            y = head + 0.24 * rows.index(one.edge)
            for choice in one.choices:
                x = place[one.kind, choice.name]
                axes.add_patch(
                    Rectangle(
                        (x - cell / 2 + 0.01, y + 0.01), cell - 0.02, 0.22, facecolor=_colour(choice), linewidth=0
                    )
                )
                share = "–" if choice.top is None else f"{100 * choice.top:.0f}"
                axes.text(x, y + 0.12, share, ha="center", va="center", size=8.5, color=_CELL_INK)


def _colour(choice: ChoiceShare) -> str:
    if choice.surprise is None:
        return "#{:02x}{:02x}{:02x}".format(*_NEUTRAL)
    end = _MORE if choice.surprise > 0 else _LESS
    part = min(1.0, abs(choice.surprise) / _FULL)
    return "#{:02x}{:02x}{:02x}".format(*(round(a + (b - a) * part) for a, b in zip(_NEUTRAL, end, strict=True)))
