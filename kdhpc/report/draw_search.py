"""The figures of a search's report that tell how it went."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kdhpc.report.figures import add_legend, add_legend_above, name_rows, new_figure, short, tidy

# isort: split
from matplotlib.ticker import FuncFormatter

from kdhpc.config.goals import Goal
from kdhpc.report.search_progress import SearchProgress
from kdhpc.report.theme import light
from kdhpc.study.ranking import Estimate
from kdhpc.study.search_history import Spent
from kdhpc.study.status import RungStatus

_MOST_SHAPES = 1500
"""With more points than these, an SVG has them as pixels."""
_SERIES = ("blue", "orange", "green", "pink", "amber")
_MARKERS = ("o", "s", "^", "D", "v")
_LINES = ("--", ":", "-.", (0, (6, 2, 1, 2)))
"""Of the first given graphs; more of them would hide the rest."""
STATES: Mapping[str, tuple[str, str]] = {
    "complete": ("trained to the end", "blue"),
    "pruned": ("pruned", "sky"),
    "diverged": ("diverged", "pink"),
    "failed": ("failed", "orange"),
    "running": ("running", "green"),
    "waiting": ("interrupted, to go on", "grey"),
}
"""What became of trials: words and colour."""


def draw_progress(
    progress: SearchProgress,
    baselines: Sequence[tuple[str, float]],
    goal: Goal,
    paths: Sequence[Path],
    *,
    over_hours: bool,
) -> None:
    """Values of complete trials and the best so far.

    Args:
        progress: With a complete trial at least.
        baselines: Names and values of given graphs, as lines across.
        goal: The study's.
        paths: Files that end in ``.svg`` or ``.png``; so in all functions of this file.
        over_hours: Over hours instead of trials.

    Raises:
        StorageError: the file system refuses; so in all functions of this file.
    """
    with new_figure(paths, 3.1) as figure:
        axes = figure.add_subplot()
        done = progress.completed
        places = [one.hours if over_hours else float(one.place) for one in done]
        end = progress.hours if over_hours else float(progress.num_ended)
        axes.plot(
            places,
            [one.value for one in done],
            linestyle="none",
            marker="o",
            markersize=4,
            markeredgewidth=0.5,
            markeredgecolor=light("paper"),
            color=light("sky"),
            zorder=3,
            label="complete trial",
            rasterized=len(done) > _MOST_SHAPES,
        )
        axes.step(
            [*places, end], [*(one.best for one in done), done[-1].best], where="post", linewidth=2,
            color=light("blue"), label="best so far", zorder=2.5,
        )  # fmt: skip
        for (name, value), style, colour in zip(baselines, _LINES, _SERIES[1:], strict=False):
            axes.axhline(value, linestyle=style, color=light(colour), linewidth=1.4, label=short(name))
        axes.set_xlim(left=0)
        axes.set_xlabel("GPU hours (hours of workers)" if over_hours else "trials that have ended")
        axes.set_ylabel(value_label(goal))
        tidy(axes, is_counted=not over_hours)
        add_legend(axes)


def draw_curves(
    curves: Mapping[int, Sequence[tuple[int, float]]],
    rungs: Sequence[RungStatus],
    goal: Goal,
    paths: Sequence[Path],
) -> None:
    """What the best trials reported at each rung, beside the medians of all trials that reached it."""
    with new_figure(paths, 3.1) as figure:
        axes = figure.add_subplot()
        axes.plot(
            [rung.epoch for rung in rungs], [rung.median for rung in rungs], color=light("muted"), linestyle="--",
            linewidth=1.8, marker="x", markersize=5, label="median of all that came so far",
        )  # fmt: skip
        for (number, points), colour, marker in zip(curves.items(), _SERIES, _MARKERS, strict=False):
            axes.plot(
                [epoch for epoch, _ in points], [value for _, value in points], color=light(colour), marker=marker,
                markersize=4, linewidth=1.4, label=f"trial {number}",
            )  # fmt: skip
        last = max([rung.epoch for rung in rungs], default=1)
        if last > 8:
            axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda epoch, _: f"{epoch:g}"))
        epochs = [rung.epoch for rung in rungs]
        if last <= 8:
            axes.set_xticks(epochs)
        elif len(epochs) <= 12:
            # The last epoch is no power of two, and often close to one.
            shown = [epoch for epoch in epochs[:-1] if epochs[-1] / epoch > 1.35]
            axes.set_xticks([*shown, epochs[-1]])
            axes.minorticks_off()
        axes.set_xlabel("epoch")
        axes.set_ylabel(value_label(goal))
        tidy(axes)
        add_legend_above(figure)


def draw_funnel(rungs: Sequence[RungStatus], paths: Sequence[Path]) -> None:
    """How many trials reached each rung, and how many of them were pruned at it."""
    with new_figure(paths, 1.1 + 0.3 * max(3, len(rungs))) as figure:
        axes = figure.add_subplot()
        rows = range(len(rungs))
        kept = [rung.survived for rung in rungs]
        lost = [rung.reached - rung.survived for rung in rungs]
        axes.barh(rows, kept, color=light("blue"), label="went on")
        axes.barh(
            rows,
            lost,
            left=kept,
            color=light("sky"),
            hatch="////",
            edgecolor=light("paper"),
            linewidth=0,
            label="pruned there",
        )
        for row, rung in zip(rows, rungs, strict=True):
            axes.annotate(
                f"{rung.reached:,}", (rung.reached, row), xytext=(4, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(list(rows), [str(rung.epoch) for rung in rungs])
        axes.invert_yaxis()
        axes.set_ylabel("epoch")
        axes.set_xlabel("trials that reported")
        axes.margins(x=0.14)
        tidy(axes, is_counted=True, has_bars=True)
        add_legend_above(figure)


def draw_estimates(searched: Sequence[tuple[str, float | None, Estimate]], goal: Goal, paths: Sequence[Path]) -> None:
    """Values of the search beside those of new trainings.

    Args:
        searched: Of each graph its name, its value in the search (None: a baseline), and what it comes to.
        goal: The study's.
        paths: Files.
    """
    with new_figure(paths, 1.0 + 0.3 * max(2, len(searched))) as figure:
        axes = figure.add_subplot()
        told: set[str] = set()

        def once(label: str) -> str:
            shown = "" if label in told else label
            told.add(label)
            return shown or "_"

        for row, (_, value, known) in enumerate(searched):
            is_baseline = value is None
            label = "given graph" if is_baseline else "confirmed"
            axes.errorbar(
                [known.mean], [row], xerr=None if known.error is None else [known.error], capsize=3, markersize=5,
                marker="s" if is_baseline else "o", linestyle="none", label=once(label),
                color=light("orange" if is_baseline else "blue"),
            )  # fmt: skip
            if value is not None:
                axes.plot(
                    [value], [row], marker="x", markersize=6, linestyle="none", color=light("muted"),
                    label=once("in the search"),
                )  # fmt: skip
        name_rows(axes, [name for name, _, _ in searched])
        axes.set_xlabel(value_label(goal))
        tidy(axes)
        axes.margins(x=0.1)
        add_legend_above(figure)


def draw_spent(spent: Sequence[Spent], lost_hours: float, paths: Sequence[Path]) -> None:
    """Where the time of workers went."""
    bars = [(STATES[one.state][0], one.hours, STATES[one.state][1], "") for one in spent if not one.is_given]
    given = sum(one.hours for one in spent if one.is_given)
    if any(one.is_given for one in spent):
        bars.append(("given trials", given, "green", ""))
    if lost_hours:
        bars.append(("of all: lost attempts", lost_hours, "orange", "////"))
    with new_figure(paths, 0.8 + 0.3 * max(2, len(bars))) as figure:
        axes = figure.add_subplot()
        for row, (_, hours, colour, hatch) in enumerate(bars):
            axes.barh(row, hours, color=light(colour), hatch=hatch, edgecolor=light("paper"), linewidth=0)
            axes.annotate(hours_words(hours), (hours, row), xytext=(4, 0), textcoords="offset points", va="center")
        name_rows(axes, [name for name, *_ in bars])
        axes.set_xlim(0, max(hours for _, hours, *_ in bars) * 1.2 or 1.0)
        axes.set_xlabel("hours of training")
        tidy(axes, has_bars=True)


def hours_words(hours: float) -> str:
    """``12.3 h``, ``4.5 min``, ``12 s``."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def value_label(goal: Goal) -> str:
    """What an axis of values is called."""
    unit = goal.unit.strip()
    return f"{goal.title}{f' ({unit})' if unit else ''}" if len(goal.title) < 30 else f"{goal.short}, lower is better"
