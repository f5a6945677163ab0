"""Pairs of networks as a picture, after the paper's figure 2."""

from collections.abc import Sequence
from pathlib import Path

from kdhpc.graph.figure import plain_style, save_figure

# isort: split
import numpy as np
from matplotlib.figure import Figure

from kdhpc.report.correlation import Line, Pairs

_DPI = 200
_MAX_DRAWN = 2000
"""With more points than these, an SVG has them as pixels. As shapes they would make it large and slow."""


def draw_pairs(pairs: Pairs, line: Line | None, paths: Sequence[Path], *, title: str, scored_on: str) -> None:
    """Draw gain over mutual KL to files that end in ``.svg`` or ``.png``. Each file appears whole or not at all.

    Args:
        pairs: What to draw.
        line: The regression line; None: it is not defined.
        paths: The files to write.
        title: One line that says what the networks are.
        scored_on: Which images were used: ``test`` or ``validation``.

    Raises:
        StorageError: the file system refuses.
    """
    num_pairs = len(pairs.first)
    with plain_style():
        figure = Figure(figsize=(6.4, 4.6), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        axes.scatter(
            pairs.mutual_kl,
            pairs.gains,
            s=22 if num_pairs <= 300 else 10,
            color="#0072b2",
            alpha=0.7 if num_pairs <= 300 else 0.35,
            linewidths=0,
            rasterized=num_pairs > _MAX_DRAWN,
        )
        if line is not None:
            ends = np.array([pairs.mutual_kl.min(), pairs.mutual_kl.max()])
            axes.plot(ends, line.intercept + line.slope * ends, color="#d55e00", linewidth=1.8, label="regression line")
            axes.legend(frameon=False, loc="upper left", fontsize=9)
            axes.margins(y=0.12)
        axes.set_xlabel(f"mutual KL divergence (nats), mean over {pairs.num_images:,} {scored_on} images")
        axes.set_ylabel("accuracy gained by the ensemble of two\n(percentage points)")
        found = "correlation not defined" if line is None else f"correlation coefficient r = {line.r:.3f}"
        axes.set_title(f"{title}\n{num_pairs:,} pairs of {len(pairs.networks):,} networks, {found}", fontsize=11)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        save_figure(figure, paths, dpi=_DPI)
