"""The figures of a search's report: each as files, and as a part of the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdhpc.config.goals import DEFAULT_GOAL, GOALS
from kdhpc.files.reading import read_whole
from kdhpc.graph.drawing import draw_graph
from kdhpc.graph.spec import GraphSpec
from kdhpc.report.draw_choices import draw_importance, draw_shares
from kdhpc.report.draw_search import draw_curves, draw_estimates, draw_funnel, draw_progress, draw_spent
from kdhpc.report.inline_svg import inline_svg
from kdhpc.report.search_choices import ParameterChoices, SearchChoices
from kdhpc.report.search_progress import SearchProgress
from kdhpc.searching.export import named_graph
from kdhpc.study.ranking import Estimate, estimate
from kdhpc.study.search_history import SearchHistory
from kdhpc.study.slots import CRASHED, VANISHED
from kdhpc.study.status import TrialRecord

NUM_CURVES = 5
"""Trials whose learning curves are drawn."""
_MOST_CELLS = 1200
"""Of a table that is drawn: that of six nodes has fewer."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the page."""

    name: str
    """Of its files, without the ending."""
    svg: str
    """As an element of HTML."""
    caption: str
    """What is to be seen, in words."""
    is_themed: bool = True
    """It has no background of its own."""


@dataclass(frozen=True, kw_only=True)
class SearchFigures:
    """Those that there is something to show for; None: there is not."""

    over_trials: Figure | None
    over_hours: Figure | None
    curves: Figure | None
    funnel: Figure | None
    estimates: Figure | None
    importance: Figure | None
    edges: Figure | None
    networks: Figure | None
    spent: Figure | None
    graphs: tuple[Figure, ...]

    @property
    def all(self) -> tuple[Figure, ...]:
        """All that are there."""
        single = (self.over_trials, self.over_hours, self.curves, self.funnel, self.estimates)
        more = (self.importance, self.edges, self.networks, self.spent)
        return (*(one for one in (*single, *more) if one is not None), *self.graphs)


class _Painter:
    """Draws into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def draw(
        self, name: str, draw: Callable[[Sequence[Path]], None], *, alt: str, caption: str, is_themed: bool = True
    ) -> Figure:
        """Draw a figure to its files, and read it for the page."""
        svg, png = (self._folder / f"{name}.{ending}" for ending in ("svg", "png"))
        draw((svg, png))
        element = inline_svg(read_whole(svg).decode(), name, alt=alt, themed=is_themed)
        return Figure(name=name, svg=element, caption=caption, is_themed=is_themed)


def draw_figures(
    history: SearchHistory, progress: SearchProgress, choices: SearchChoices, folder: Path, *, num_graphs: int
) -> SearchFigures:
    """Draw all figures of a search.

    Args:
        history: What became of it.
        progress: How it got better.
        choices: What its best trials chose.
        folder: Where to.
        num_graphs: How many of the best graphs are drawn.

    Raises:
        StorageError: the file system refuses.
    """
    paint, goal, rungs = _Painter(folder).draw, GOALS[history.definition.goal], history.status.rungs
    lines = [(one.name, known.mean) for one in history.given if one.name and (known := estimate(one.values))]
    has_completed = bool(progress.completed)
    curves = {trial.number: history.curves[trial.number] for trial in history.best[:NUM_CURVES]}
    edges = [one for one in choices.parameters if one.kind != "network"]
    networks = [one for one in choices.parameters if one.kind == "network"]
    lost = sum(left.hours for left in history.left if left.how in (CRASHED, VANISHED))
    estimates = estimates_of(history)
    dots = "Dots are complete trials, the line is the best value so far."
    across = " Lines across are the given graphs." if lines else ""
    is_confirmed = any(value is not None for _, value, _ in estimates)
    best = goal.shown(progress.completed[-1].best) if has_completed else ""
    return SearchFigures(
        over_trials=paint(
            "best-over-trials",
            lambda paths: draw_progress(progress, lines, goal, paths, over_hours=False),
            alt=f"Best value over trials: {best} after {progress.num_ended} trials that have ended.",
            caption=f"{dots}{across} Pruned trials have no value, but count along the axis.",
        )
        if has_completed
        else None,
        over_hours=paint(
            "best-over-hours",
            lambda paths: draw_progress(progress, lines, goal, paths, over_hours=True),
            alt=f"Best value over GPU hours: {best} after {progress.hours:.2f} hours.",
            caption="The same over the hours that workers, each with one GPU or none, have spent on trials of the "
            "budget. Hours in which a worker held several trials count once.",
        )
        if has_completed
        else None,
        curves=paint(
            "learning-curves",
            lambda paths: draw_curves(curves, rungs, goal, paths),
            alt="Values of the best trials at each rung, beside the median of all trials at that rung.",
            caption="What the best trials reported, beside the medians of all trials that reached the same epoch. "
            "These are medians as of now; a trial was judged by those of its time.",
        )
        if curves and rungs
        else None,
        funnel=paint(
            "funnel",
            lambda paths: draw_funnel(rungs, paths),
            alt=f"Trials that reached each epoch: {', '.join(f'{r.reached} at {r.epoch}' for r in rungs)}.",
            caption="How many trials reported at each epoch, and how many of them were pruned there. Failed ones are "
            "left out.",
        )
        if rungs
        else None,
        estimates=paint(
            "confirmed",
            lambda paths: draw_estimates(estimates, goal, paths),
            alt="Values of confirmed and given graphs, with standard errors, beside the values of the search.",
            caption="Means over trainings with new seeds; bars are standard errors, where there are several. A cross "
            "is the value in the search, which is the best of many and therefore too good on average."
            if is_confirmed
            else "The given graphs: means over their trainings; bars are standard errors, where there are several. No "
            "graph of the search is confirmed yet.",
        )
        if estimates
        else None,
        importance=_of_parameters(
            paint,
            "importance",
            draw_importance,
            choices.parameters,
            alt="Importance of gates, designs and networks.",
            caption="How much the choices of the best trials differ from those of all trials (PED-ANOVA). Something is "
            "always first, also among parameters that do not matter: see the shares.",
        ),
        edges=_of_parameters(
            paint,
            "shares",
            draw_shares,
            edges,
            alt="Shares of gates and designs of each edge among the best trials, in percent; the same as the table.",
            caption="Percent of the best trials that use a gate; and, of those whose edge is not cut off, a design. "
            "Blue: more often than the search space draws it; orange: less often; grey: chance may explain it.",
        ),
        networks=_of_parameters(
            paint,
            "networks",
            draw_shares,
            networks,
            alt="Shares of the networks of each node among the best trials, in percent; the same as the table.",
            caption="The same for the network of each node.",
        ),
        spent=paint(
            "where-compute-went",
            lambda paths: draw_spent(history.spent, lost, paths),
            alt="Hours of training by what became of the trials; the same as the table.",
            caption="Hours of training by what became of the trials.",
        )
        if history.spent
        else None,
        graphs=tuple(
            _graph(paint, history, trial, rank) for rank, trial in enumerate(history.best[:num_graphs], start=1)
        ),
    )


def estimates_of(history: SearchHistory) -> list[tuple[str, float | None, Estimate]]:
    """Of confirmed and of named given graphs: name, value in the search (None: not from it), and new trainings."""
    keys: set[GraphSpec] = set()
    found: list[tuple[str, float | None, Estimate]] = []
    for trial in history.best:
        if trial.confirmed is not None and trial.graph not in keys:  # Several trials may have tried the same graph.
            keys.add(trial.graph)
            found.append((f"trial {trial.number}", trial.value, trial.confirmed))
    named = [(one.name, estimate(one.values)) for one in history.given if one.name is not None]
    return [*found, *((name, None, known) for name, known in named if known is not None)]


def _of_parameters(
    paint: Callable[..., Figure],
    name: str,
    draw: Callable[[Sequence[ParameterChoices], Sequence[Path]], None],
    parameters: Sequence[ParameterChoices],
    *,
    alt: str,
    caption: str,
) -> Figure | None:
    if not parameters or (draw is draw_shares and sum(len(one.choices) for one in parameters) > _MOST_CELLS):
        return None
    return paint(name, lambda paths: draw(parameters, paths), alt=alt, caption=caption)


def _graph(paint: Callable[..., Figure], history: SearchHistory, trial: TrialRecord, rank: int) -> Figure:
    definition = history.definition
    goal = GOALS[definition.goal]
    graph = named_graph(definition, trial.graph)
    value = trial.value if trial.confirmed is None else trial.confirmed.mean
    shown = value if definition.goal == DEFAULT_GOAL else None
    # Without designs that are not drawn, as their edges are cut off.
    edges = [edge for edge in replace(graph, networks=()).edges if edge.gate.value != "cutoff"]
    taught = ", ".join(f"{edge.source + 1} to {edge.target + 1} {edge.design} {edge.gate}" for edge in edges) or "none"
    labels = ", ".join(f"{node} {gate}" for node, gate in enumerate(graph.label_gates, start=1))
    return paint(
        f"graph-{rank}",
        lambda paths: draw_graph(graph, paths, title=f"trial {trial.number}", ensemble_accuracy=shown),
        alt=f"Graph of trial {trial.number}. Labels teach nodes: {labels}. Nodes teach nodes: {taught}.",
        caption=f"Number {rank}: trial {trial.number}, {goal.named(value)}"
        + ("." if trial.confirmed is None else ", confirmed."),
        is_themed=False,
    )
