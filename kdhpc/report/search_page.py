"""The page of a search's report, from its template. All that people or machines have named is escaped there."""

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from kdhpc import __version__
from kdhpc.config.goals import GOALS
from kdhpc.graph.space import graph_key
from kdhpc.printing import printable
from kdhpc.report.draw_search import STATES, hours_words
from kdhpc.report.search_choices import LEAST_TOP, LEAST_TRIALS, TOP_SHARE, ParameterChoices, SearchChoices
from kdhpc.report.search_figures import SearchFigures, estimates_of
from kdhpc.report.theme import THEME
from kdhpc.study.ranking import Estimate, estimate, estimate_words, lead_line
from kdhpc.study.search_history import SearchHistory
from kdhpc.study.slots import CRASHED, GIVEN_BACK, VANISHED

_SHOWN_TRIALS = 10
_MOST_LISTED = 200
_LEFT_WORDS = {
    CRASHED: "crashed",
    VANISHED: "whose workers vanished",
    GIVEN_BACK: "given back in order (stopped, or out of time): the next worker went on where they stood",
}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A command that worked on the study."""

    when: str
    """For people."""
    by: str
    """Who, where, and with which version."""
    command: str
    """As it was typed."""


def render_page(
    history: SearchHistory,
    choices: SearchChoices,
    figures: SearchFigures,
    *,
    num_graphs: int,
    launches: Sequence[Launch],
    definition: str,
    frozen: str | None,
) -> str:
    """The page as text of HTML.

    Args:
        history: What became of the search.
        choices: What its best trials chose.
        figures: Drawn.
        num_graphs: How many of the best graphs were to be drawn.
        launches: Commands that worked on it, the latest last.
        definition: What the study was made with, as text.
        frozen: The config of the latest launch; None: not known.
    """
    status, goal = history.status, GOALS[history.definition.goal]

    def words(known: Estimate | None) -> str:
        return "–" if known is None else estimate_words(known, goal)

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "svg": Markup,
        "quote": shlex.quote,
        "percent": lambda share: "–" if share is None else f"{100 * share:.1f}",
        "hours": hours_words,
        "estimate": words,
        "value": goal.shown,
        "key": graph_key,
        "code": _with_code,
    }
    complete = [trial for trial in history.trials if trial.value is not None]
    open_candidates = [one for one in history.given if one.is_candidate and one.open]
    return environment.get_template("search_page.html").render(
        light=_colours(light=True),
        dark=_colours(light=False),
        version=__version__,
        study=history.definition,
        status=status,
        goal=goal,
        history=history,
        choices=choices,
        listed=_most_important(choices),
        figures=figures,
        num_graphs=num_graphs,
        launches=launches,
        definition=definition,
        frozen=frozen,
        read_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(history.read_at)),
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(history.created)),
        state=_state_words(history),
        lead=lead_line(status.lead, status.study, goal, diverged=status.diverged_given),
        baselines=[(one, estimate(one.values)) for one in history.given if one.name is not None],
        confirmed=[one for one in estimates_of(history) if one[1] is not None],
        num_open_candidates=len(open_candidates),
        diverged_candidates=[one.graph_key for one in history.given if one.is_candidate and one.diverged],
        best=history.best[:_SHOWN_TRIALS],
        highest=max(complete, key=lambda trial: goal.sign * (trial.value or 0.0), default=None),
        spent=[one for one in history.spent if not one.is_given],
        spent_given=[one for one in history.spent if one.is_given],
        left=[(_LEFT_WORDS[one.how], one) for one in history.left],
        states={state: shown for state, (shown, _) in STATES.items()},
        worked=sum(one.hours for one in history.spent if not one.is_given),
        top_percent=round(100 * TOP_SHARE),
        least_top=LEAST_TOP,
        least_trials=LEAST_TRIALS,
        run=history.best[0].run if history.best else {},
    )


def _shown(value: object) -> object:
    """Texts without control characters; what is markup already stays."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _with_code(text: str) -> Markup:
    """A line for a terminal, where commands stand between backticks."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _most_important(choices: SearchChoices) -> list[ParameterChoices]:
    """In the order of the space; of many nodes, those that a page has room for."""
    ranked = sorted(choices.parameters, key=lambda one: -one.importance)[:_MOST_LISTED]
    names = {one.name for one in ranked}
    return [one for one in choices.parameters if one.name in names]


def _colours(*, light: bool) -> dict[str, str]:
    return {name: colour.light if light else colour.dark for name, colour in THEME.items()}


def _state_words(history: SearchHistory) -> str:
    """Whether the search is over."""
    status = history.status
    counts = status.trials
    if not history.trials:
        return "No trial has begun yet."
    ended = f"{counts.finished:,} of {status.target:,} trials have ended"
    if status.unfinished:
        given = f", and {status.given_trials.unfinished} given ones are open" if status.given_trials.unfinished else ""
        stopped = "; it was stopped, so none is started" if status.draining else ""
        return (
            f"The search is not over: {ended}, {counts.running} run now{given}{stopped}. This page will be out of date."
        )
    if counts.beyond_hours:
        return f"The search is over, as its hours are used: {ended}, {counts.beyond_hours:,} were never begun."
    return f"The search is over: {ended}."
