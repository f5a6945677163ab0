"""What the live view shows: a study on one screen, however many workers it has. What needs a person comes first."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from kdhpc.cli.parts import Fact, Part, Table
from kdhpc.cli.progress import duration
from kdhpc.cli.status_view import best_words, epoch_words, speed_of, speed_words
from kdhpc.cluster.slurm import QueuedJob
from kdhpc.config.goals import GOALS, Goal
from kdhpc.study.numbers import trial_label
from kdhpc.study.ranking import Lead
from kdhpc.study.status import StudyStatus, WorkerStatus
from kdhpc.words import counted

_BAR = 12
_TROUBLES = 5
_FEWEST_WORKERS = 3
"""Before troubles are left out."""


@dataclass(frozen=True, kw_only=True)
class Asides:
    """What is not in the database."""

    jobs: tuple[QueuedJob, ...] | None = None
    """In Slurm's queue; None: there is no Slurm, or its answer is not known."""
    problem: str | None = None
    """Why its answer is not known."""
    gone: frozenset[str] = frozenset()
    """Jobs of workers that are not in the queue any more."""
    last_words: Mapping[str, str] = field(default_factory=dict)
    """The last line in the logs of jobs whose worker vanished."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What is known at one moment."""

    status: StudyStatus
    """Of the study."""
    asides: Asides
    """The rest."""
    read_at: float
    """When the status was read, in seconds since 1970."""
    away: str | None = None
    """Since when the database has not answered, and why; None: it has."""

    @cached_property
    def workers(self) -> tuple[WorkerStatus, ...]:
        """Those that need attention first: lost ones, then those of which nothing was heard for longest."""
        known = (replace(worker, lost=worker.lost or worker.job in self.asides.gone) for worker in self.status.workers)
        return tuple(sorted(known, key=lambda worker: (not worker.lost, -worker.lease_age_s, worker.trial)))


def troubled_jobs(status: StudyStatus, gone: frozenset[str]) -> list[str]:
    """Jobs whose logs' last line says why a worker vanished; few."""
    lost = [worker.job for worker in status.workers if worker.job and (worker.lost or worker.job in gone)]
    vanished = [crash.job for crash in status.crashes[-_TROUBLES:] if crash.job and crash.vanished]
    return list(dict.fromkeys([*lost[:_TROUBLES], *vanished]))


def view_parts(view: View, *, num_workers: int, num_troubles: int = _TROUBLES) -> list[Part]:
    """All parts, with so many workers, and so many lines of trouble, at most."""
    funnel = _funnel(view.status)
    parts: list[Part] = [*fact_parts(view)]
    if funnel.rows:
        parts += ["", funnel]
    parts += _trouble_parts(view, num_troubles)
    shown, left_out = view.workers[:num_workers], view.workers[num_workers:]
    if shown:
        parts += ["", _worker_table(shown)]
    if left_out:
        num_lost = sum(worker.lost for worker in left_out)
        lost = f"{num_lost} of them LOST" if num_lost else f"heard of {duration(left_out[0].lease_age_s)} ago or later"
        parts.append(f"and {counted(len(left_out), 'trial')} more, {lost}")
    return parts


def fitted_parts(view: View, height: int, lines_of: Callable[[Sequence[Part]], int]) -> list[Part]:
    """The parts that fit a screen.

    Args:
        view: What to show.
        height: Lines of the screen.
        lines_of: How many lines parts take.
    """

    def lines(num_workers: int) -> int:
        return lines_of(view_parts(view, num_workers=num_workers, num_troubles=num_troubles))

    most, num_troubles = len(view.workers), _TROUBLES
    wanted = min(most, _FEWEST_WORKERS)
    while (taken := lines(wanted)) > height and num_troubles > 1:
        num_troubles -= 1
    num_workers = wanted
    if taken < height and most > wanted:
        # Each takes as many lines as any other one, or nearly so.
        a_worker = max(1, lines(wanted + 1) - taken)
        num_workers = min(most, wanted + (height - taken) // a_worker)
        taken = lines(num_workers)
    while taken > height and num_workers > 1:
        num_workers -= 1
        taken = lines(num_workers)
    return view_parts(view, num_workers=num_workers, num_troubles=num_troubles)


def fact_parts(view: View) -> list[Part]:
    """What is said of the study as a whole."""
    status, goal = view.status, GOALS[view.status.goal]
    counts, given = status.trials, status.given_trials
    stopped = " (stopped: no trial is started)" if status.draining else ""
    date, moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(view.read_at)).split()
    facts: list[Part] = [Fact(label=moment, text=f"study {status.study}{stopped}, {date}")]
    if view.away is not None:
        facts.append(Fact(label="AWAY", text=view.away, alarming=True))
    facts.append(Fact(label="trials", text=_budget_words(status)))
    facts.append(Fact(label="speed", text=speed_words(status)))
    facts.append(Fact(label="hours", text=_hours_words(status)))
    facts.append(Fact(label="best", text=best_words(status)))
    if status.lead:
        facts.append(Fact(label="lead", text=_lead_words(status, goal)))
    if given.target:
        facts.append(Fact(label="given", text=_given_words(status, goal)))
    if status.workers or counts.running:
        facts.append(Fact(label="training", text=_worker_words(view.workers)))
    if view.asides.problem is not None:
        facts.append(Fact(label="jobs", text=f"no jobs shown: {view.asides.problem}"))
    elif view.asides.jobs is not None:
        facts.append(Fact(label="jobs", text=_job_words(view.asides.jobs)))
    return facts


def _budget_words(status: StudyStatus) -> str:
    counts = status.trials
    filled = _BAR * counts.finished // max(1, status.target)
    states = [(counts.complete, "complete"), (counts.pruned, "pruned"), (counts.diverged, "diverged")]
    states += [(counts.running, "running"), (counts.waiting, "waiting"), (counts.failed, "FAILED")]
    states += [(counts.beyond_hours, "not begun, as the hours are used")]
    words = ", ".join(f"{count} {state}" for count, state in states if count)
    return f"[{'#' * filled}{'-' * (_BAR - filled)}] {counts.finished} of {status.target}: {words}"


def _hours_words(status: StudyStatus) -> str:
    """Of workers, each with one GPU or none: those of several trials at once count once, in both numbers."""
    of = "" if status.max_gpu_hours is None else f" of {status.max_gpu_hours:g}"
    words = f"{_hours(status.hours_used)}{of} GPU hours spent"
    alive = {(worker.host, worker.pid) for worker in status.workers if not worker.lost}
    if status.seconds_to_go is None or not alive:
        return words
    return f"{words}, about {_hours(status.seconds_to_go * len(alive) / 3600)} to go"


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours < 100 else f"{hours:.0f}"


def _lead_words(status: StudyStatus, goal: Goal) -> str:
    unit = " points" if goal.maximise else ""
    better, worse = ("above", "below") if goal.maximise else ("better than", "worse than")
    leads = [
        f"{abs(lead.points):.{goal.digits}f}{_error_words(lead, goal)}{unit} "
        f"{worse if lead.points < 0 else better} {lead.over}"
        for lead in status.lead
    ]
    is_confirmed = all(lead.is_confirmed for lead in status.lead)
    return f"{', '.join(leads)}{'' if is_confirmed else ' (not confirmed)'}"


def _error_words(lead: Lead, goal: Goal) -> str:
    return "" if lead.error is None else f" ± {lead.error:.{goal.digits}f}"


def _given_words(status: StudyStatus, goal: Goal) -> str:
    counts = status.given_trials
    named = [f"{given.name} {goal.shown(given.result.mean)}" for given in status.given if given.result is not None]
    failed = [f"{counts.failed} FAILED"] if counts.failed else []
    diverged = [f"{name} diverged" for name in status.diverged_given]
    return ", ".join([f"{counts.finished} of {counts.target} trained, beside the budget", *failed, *named, *diverged])


def _worker_words(workers: Sequence[WorkerStatus]) -> str:
    num_lost = sum(worker.lost for worker in workers)
    speed = sum(worker.images_per_s or 0.0 for worker in workers if not worker.lost)
    lost = f", {num_lost} LOST" if num_lost else ""
    num_alive = len(workers) - num_lost
    return f"{counted(num_alive, 'trial')}{lost}, {speed:.0f} images/s"


def _job_words(jobs: Sequence[QueuedJob]) -> str:
    counts = Counter(job.condition for job in jobs)
    return ", ".join(f"{count} {condition}" for condition, count in counts.most_common(4)) or "none in the queue"


def _funnel(status: StudyStatus) -> Table:
    """How many trials got how far: a column for each rung. A narrow terminal leaves out the first ones."""
    epochs, goal = tuple(str(rung.epoch) for rung in status.rungs), GOALS[status.goal]
    rows = [
        ("reached", *(str(rung.reached) for rung in status.rungs)),
        ("survived", *(str(rung.survived) for rung in status.rungs)),
        ("median", *(f"{rung.median:.{goal.digits}f}" for rung in status.rungs)),
    ]
    return Table(head=("epoch", *epochs), rows=rows if epochs else [], spare=epochs[:-1])


def _trouble_parts(view: View, num_rows: int) -> list[Part]:
    """Lost workers and crashed trials, the latest of them, each with the last that was heard of it."""
    words, crashes = view.asides.last_words, view.status.crashes
    rows = [
        (trial_label(worker.trial), "lost", words[worker.job])
        for worker in view.workers
        if worker.lost and worker.job is not None and worker.job in words
    ]
    for crash in reversed(crashes):
        last = words.get(crash.job or "") if crash.vanished else None
        rows.append((trial_label(crash.number), crash.state, f"{crash.reason}: {last}" if last else crash.reason))
    if not rows:
        return []
    table = Table(head=("trouble", "state", "last words"), rows=rows[:num_rows], wraps=("last words",))
    if (num_more := len(rows) - num_rows) <= 0:
        return ["", table]
    return ["", table, f"and {num_more} more: `kdhpc status --study {view.status.study}`"]


def _worker_table(workers: Sequence[WorkerStatus]) -> Table:
    rows = [
        (
            *(worker.host.partition(".")[0], worker.job or str(worker.pid), trial_label(worker.trial)),
            *(epoch_words(worker), speed_of(worker)),
            f"{duration(worker.lease_age_s)} ago{', LOST' if worker.lost else ''}",
        )
        for worker in workers
    ]
    return Table(
        head=("node", "job", "trial", "epoch", "images/s", "last sign of life"),
        rows=rows,
        spare=("job", "images/s"),
        wraps=("last sign of life",),
        alarming=frozenset(index for index, worker in enumerate(workers) if worker.lost),
    )
