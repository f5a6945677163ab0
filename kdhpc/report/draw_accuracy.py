"""Accuracies as a picture, after the paper's figures 3 and 8."""

import math
import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from kdhpc.graph.figure import plain_style, save_figure

# isort: split
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from kdhpc.final.measures import title, unit
from kdhpc.report.accuracy import Chart, Curve

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, which colour-blind people tell apart; without the yellow, which is too light on white."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", ":", "-.")
_DPI = 200
_WIDTH, _HEIGHT, _LETTER, _LINE = 5.2, 4.4, 0.082, 0.2
"""In inches: width and height of the picture without its legend, width of a letter and height of a legend line."""
_MARGIN = 0.08
"""Margin around everything, in inches. Some versions of Matplotlib leave less than their letters need."""
_HALF_WIDTH = 0.06
"""Largest shift of a curve to either side, in nodes. Without it, bars at one number of nodes hide each other."""


def draw_chart(chart: Chart, paths: Sequence[Path], *, ddof: int) -> None:
    """Draw a chart to files that end in ``.svg`` or ``.png``. Each file appears whole or not at all.

    Args:
        chart: The curves and their description.
        paths: The files to write.
        ddof: How the standard deviations were computed (0: population, 1: sample), for the caption.

    Raises:
        StorageError: the file system refuses.
    """
    with plain_style():
        width = _WIDTH + _LETTER * max(len(curve.label) for curve in chart.curves)
        figure = Figure(
            figsize=(width, max(_HEIGHT, _LINE * (len(chart.curves) + 2))),
            layout=ConstrainedLayoutEngine(w_pad=_MARGIN, h_pad=_MARGIN),
            facecolor="white",
        )
        axes = figure.add_subplot()
        styles = zip(cycle(_COLOURS), cycle(_MARKERS), (line for line in cycle(_LINES) for _ in _COLOURS), strict=False)
        for place, (curve, (colour, marker, line)) in enumerate(zip(chart.curves, styles, strict=False)):
            axes.errorbar(
                _places(chart, curve, place),
                [point.value.mean for point in curve.points],
                # Where a deviation is not known, no bar is drawn.
                yerr=[math.nan if point.value.std is None else point.value.std for point in curve.points],
                label=curve.label,
                color=colour,
                marker=marker,
                linestyle=line,
                linewidth=1.5,
                markersize=5,
                capsize=3,
                elinewidth=1,
            )
        _describe(axes, chart)
        figure.supxlabel("\n".join(textwrap.wrap(_caption(chart, ddof), int(width / _LETTER))), fontsize=8.5)
        legend = figure.legend(loc="outside right upper", fontsize=9, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a "$" in a training's name is a "$"
        save_figure(figure, paths, dpi=_DPI)


def _places(chart: Chart, curve: Curve, place: int) -> list[float]:
    """Where the points are on the horizontal axis: nodes, shifted a little, or millions of parameters."""
    if chart.by == "parameters":
        return [point.x / 1e6 for point in curve.points]
    last = len(chart.curves) - 1
    shift = _HALF_WIDTH * (2 * place / last - 1) if last else 0.0
    return [point.x + shift for point in curve.points]


def _describe(axes: Axes, chart: Chart) -> None:
    points = [point for curve in chart.curves for point in curve.points]
    if chart.by == "nodes":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        most = max(point.x for point in points)
        axes.set_xlim(0.7, most + 0.3)
        branches = ", branches of ONE" if any(curve.kind == "one" for curve in chart.curves) else ""
        axes.set_xlabel(f"nodes (networks of the ensemble{branches})")
    else:
        axes.set_xlabel("parameters of all networks (millions)")
    axes.set_ylabel(f"{title(chart.measure)} on {chart.scored_on} images{unit(chart.measure)}")
    axes.set_title(chart.dataset, fontsize=12, fontweight="bold")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _caption(chart: Chart, ddof: int) -> str:
    """The caption: settings that all curves have in common, and the number of seeds."""
    seeds = sorted({point.num_seeds for curve in chart.curves for point in curve.points})
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    told = "one seed" if seeds == [1] else f"mean and standard deviation (ddof {ddof}) over {over} seeds"
    return ", ".join([*chart.common, told])
