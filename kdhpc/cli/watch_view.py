"""What the live view shows: a study on one screen, however many workers it has. What needs a person comes first."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdhpc.cli.progress import duration
from kdhpc.cli.status_view import best_words, epoch_words, given_table, rung_table, speed_of, speed_words
from kdhpc.cli.table import Fact, Part, Table
from kdhpc.cluster.slurm import QueuedJob
from kdhpc.config.goals import GOALS
from kdhpc.study.numbers import trial_label
from kdhpc.study.ranking import lead_line
from kdhpc.study.status import StudyStatus, WorkerStatus

_BAR = 20
_TROUBLES = 5
_FEWEST_ROWS = 3
"""Of each table, as long as the screen has room for its head."""


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

    @property
    def workers(self) -> tuple[WorkerStatus, ...]:
        """Those that need attention first: lost ones, then those of which nothing was heard for longest."""
        known = (replace(worker, lost=worker.lost or worker.job in self.asides.gone) for worker in self.status.workers)
        return tuple(sorted(known, key=lambda worker: (not worker.lost, -worker.lease_age_s, worker.trial)))


def troubled_jobs(status: StudyStatus, gone: frozenset[str]) -> list[str]:
    """Jobs whose logs' last line says why a worker vanished; few."""
    lost = [worker.job for worker in status.workers if worker.job and (worker.lost or worker.job in gone)]
    vanished = [crash.job for crash in status.crashes[-_TROUBLES:] if crash.job and crash.vanished]
    return list(dict.fromkeys([*lost[:_TROUBLES], *vanished]))


def view_parts(view: View, *, num_rows: int) -> list[Part]:
    """All parts, with so many rows of workers and of rungs at most."""
    return [*fact_parts(view), *_tables(view, num_rungs=num_rows, num_workers=num_rows)]


def fitted_parts(view: View, height: int, lines_of: Callable[[Sequence[Part]], int]) -> list[Part]:
    """The parts that fit a screen.

    Args:
        view: What to show.
        height: Lines of the screen.
        lines_of: How many lines parts take.
    """
    facts = fact_parts(view)
    num_rungs, num_workers = len(view.status.rungs), min(len(view.status.workers), height)
    while True:
        parts = [*facts, *_tables(view, num_rungs=num_rungs, num_workers=num_workers)]
        too_many = lines_of(parts) - height
        if too_many <= 0 or (num_workers <= 1 and num_rungs <= 1):
            return parts
        if num_workers > _FEWEST_ROWS or num_rungs <= 1:
            num_workers = max(1, num_workers - max(1, min(too_many, num_workers // 4)))
        elif num_rungs > _FEWEST_ROWS or num_workers <= 1:
            num_rungs -= 1
        else:
            num_rungs, num_workers = num_rungs - 1, num_workers - 1


def fact_parts(view: View) -> list[Part]:
    """What is said of the study as a whole."""
    status, goal = view.status, GOALS[view.status.goal]
    counts, given = status.trials, status.given_trials
    stopped = " (stopped: no trial is started)" if status.draining else ""
    date, moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(view.read_at)).split()
    facts: list[Part] = [Fact(label=moment, text=f"study {status.study}{stopped}, {date}")]
    if view.away is not None:
        facts.append(Fact(label="AWAY", text=view.away))
    facts.append(Fact(label="trials", text=_budget_words(status)))
    facts.append(Fact(label="speed", text=speed_words(status)))
    facts.append(Fact(label="hours", text=_hours_words(status)))
    if given.target:
        failed = f", {given.failed} FAILED" if given.failed else ""
        facts.append(Fact(label="given", text=f"{given.finished} of {given.target} trained, beside the budget{failed}"))
    facts.append(Fact(label="best", text=best_words(status)))
    lead = lead_line(status.lead, status.study, goal)
    if lead:
        facts.append(Fact(label="lead", text=lead))
    if status.workers or counts.running:
        facts.append(Fact(label="workers", text=_worker_words(view.workers)))
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
    words = f"{status.hours_used:.2f}{of} spent"
    alive = {(worker.host, worker.pid) for worker in status.workers if not worker.lost}
    if status.seconds_to_go is None or not alive:
        return words
    return f"{words}, about {status.seconds_to_go * len(alive) / 3600:.2f} to go"


def _worker_words(workers: Sequence[WorkerStatus]) -> str:
    num_lost = sum(worker.lost for worker in workers)
    speed = sum(worker.images_per_s or 0.0 for worker in workers if not worker.lost)
    lost = f", {num_lost} LOST" if num_lost else ""
    return f"{len(workers) - num_lost} trials in training{lost}, {speed:.0f} images/s in all"


def _job_words(jobs: Sequence[QueuedJob]) -> str:
    counts = Counter(job.condition for job in jobs)
    return ", ".join(f"{count} {condition}" for condition, count in counts.most_common(4)) or "none in the queue"


def _tables(view: View, *, num_rungs: int, num_workers: int) -> list[Part]:
    given, rungs = given_table(view.status), rung_table(view.status)
    shown = replace(rungs, rows=rungs.rows[len(rungs.rows) - num_rungs :] if num_rungs else [])
    parts: list[Part] = []
    for table in (given, shown, _trouble_table(view)):
        parts += ["", table] if table.rows else []
    workers = view.workers
    if workers:
        parts += ["", _worker_table(workers[:num_workers])]
    num_left_out = len(workers) - num_workers
    if num_left_out > 0:
        parts.append(f"and {num_left_out} trials more, heard of within {workers[num_workers].lease_age_s:.0f} s")
    return parts


def _trouble_table(view: View) -> Table:
    words = view.asides.last_words
    rows = [
        (trial_label(worker.trial), "lost", words[worker.job])
        for worker in view.workers
        if worker.lost and worker.job in words
    ]
    rows = rows[:_TROUBLES]
    crashes = view.status.crashes[-_TROUBLES:]
    for crash in crashes:
        last = words.get(crash.job or "") if crash.vanished else None
        rows.append((trial_label(crash.number), crash.state, f"{crash.reason}: {last}" if last else crash.reason))
    num_before = len(view.status.crashes) - len(crashes)
    if num_before > 0:
        rows.append(("...", "", f"and {num_before} before"))
    return Table(head=("trouble", "state", "last words"), rows=rows, wraps=("last words",))


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
