"""``kdhpc status``: how far a study is. Reads only."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdhpc.cli.progress import duration
from kdhpc.cli.study_argument import add_study_argument, chosen_study
from kdhpc.cli.table import aligned
from kdhpc.config.goals import GOALS

if TYPE_CHECKING:
    from kdhpc.cluster.slurm import QueuedJob
    from kdhpc.study.status import GivenStatus, StudyStatus

_PATIENCE_S = 5.0
_ROWS_SHOWN = 10
_EPILOG = """\
examples:
  kdhpc status --study mine
  kdhpc status --study mine --format json     for a program
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "status",
        help="how far a study is",
        description="Shows the budget, trials by state, best trial, rungs, workers, jobs, failures. Changes nothing.",
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the status.

    Raises:
        DatabaseError: the database is away; the message says whether the job that hosts it waits in the queue.
    """
    from kdhpc.errors import DatabaseError
    from kdhpc.files.json_text import strict_json
    from kdhpc.searching.jobs import mark_lost
    from kdhpc.study.status import read_status
    from kdhpc.study.storage import Storage

    try:
        storage = Storage.connect(patience_s=_PATIENCE_S)
    except DatabaseError as exc:
        raise DatabaseError(f"{exc}{_waiting_launcher(args.study)}") from exc
    status = read_status(storage, chosen_study(args, storage))
    jobs = _jobs(status)
    if jobs is not None:
        status = mark_lost(status, jobs)
    if args.format == "json":
        listed = None if jobs is None else [_document(job) for job in jobs]
        print(strict_json({**dataclasses.asdict(status), "jobs": listed}, indent=2))
    else:
        print(_table(status, jobs or ()))
    return 0


def _jobs(status: "StudyStatus") -> "tuple[QueuedJob, ...] | None":
    """The study's jobs; none where there is no Slurm, or it does not answer."""
    from kdhpc.cluster import slurm
    from kdhpc.errors import ClusterError
    from kdhpc.searching.jobs import study_jobs

    if not slurm.is_available():
        return None
    try:
        return study_jobs(status.study, (worker.job for worker in status.workers if worker.job))
    except ClusterError as exc:
        print(f"kdhpc: no jobs shown: {exc}", file=sys.stderr)
        return None


def _waiting_launcher(study: str | None) -> str:
    """That the launching job of a study, which may host the database, waits in the queue; empty: it does not."""
    from kdhpc.cluster import slurm
    from kdhpc.errors import ClusterError
    from kdhpc.searching.jobs import launching_jobs

    if study is None or not slurm.is_available():
        return ""
    try:
        return "".join(f"; its launching job {job.job} is {job.condition}" for job in launching_jobs(study))
    except ClusterError as exc:
        return f"; and {exc}"


def _document(job: "QueuedJob") -> dict[str, str]:
    return {
        "job": job.job,
        "state": job.state,
        "condition": job.condition,
        "node": job.node,
        "time_left": job.time_left,
        "reason": job.reason,
    }


def _left(given: "GivenStatus") -> tuple[tuple[int, str], ...]:
    return (given.open, "to come"), (given.failed, "FAILED"), (given.diverged, "diverged")


def _table(status: "StudyStatus", jobs: "tuple[QueuedJob, ...]") -> str:
    from kdhpc.study.numbers import trial_label
    from kdhpc.study.ranking import estimate_words, lead_line

    trials = status.trials
    states = dataclasses.asdict(trials)
    beyond_hours = states.pop("beyond_hours")
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    if beyond_hours:
        counts += f", {beyond_hours} not begun: the hours are used (a larger study.max_gpu_hours goes on)"
    goal = GOALS[status.goal]
    best = "none yet" if status.best is None else f"{goal.shown(status.best.value)} (trial {status.best.number})"
    if status.best is not None and status.best.confirmed is not None:
        best += f" in the search, confirmed {estimate_words(status.best.confirmed, goal)}"
    if status.unconfirmed is not None:
        other = f"trial {status.unconfirmed.number} has {goal.shown(status.unconfirmed.value)} in the search"
        best += f"; {other} and is not confirmed: `kdhpc confirm --study {status.study}` again"
    lead = lead_line(status.lead, status.study, goal, diverged=status.diverged_given)
    given = ", ".join(f"{count} {state}" for state, count in dataclasses.asdict(status.given_trials).items() if count)
    speed = f"{status.trials_per_hour:.1f} trials per hour" if status.trials_per_hour else "-"
    to_go = f", about {duration(status.seconds_to_go)} to go" if status.seconds_to_go else ""
    lines = [
        f"study    {status.study}{' (stopped: no trial is started)' if status.draining else ''}",
        f"target   {status.target} trials",
        f"trials   {counts}",
        *(
            []
            if status.max_gpu_hours is None
            else [f"hours    {status.hours_used:.2f} of {status.max_gpu_hours:g} used"]
        ),
        *([f"goal     {goal.title}, {'higher' if goal.maximise else 'lower'} is better"] if goal.short else []),
        *([f"given    {given} (outside the budget)"] if given else []),
        f"best     {best}",
        *([f"lead     {lead}"] if lead else []),
        f"speed    {speed}{to_go}",
        f"precision {status.precision or 'auto: that of the first worker'}",
    ]
    if status.foreign_trials:
        lines.append(f"foreign  {status.foreign_trials} trials that another program made: in none of these numbers")
    if status.given:
        compared = [
            (
                *(given.name, "-" if given.result is None else estimate_words(given.result, goal)),
                ", ".join(f"{count} {word}" for count, word in _left(given) if count) or "done",
            )
            for given in status.given
        ]
        lines += ["", *aligned([("given graph", goal.short or "accuracy", "trainings"), *compared])]
    if status.rungs:
        rungs = [(str(r.epoch), str(r.reached), str(r.survived), goal.shown(r.median)) for r in status.rungs]
        lines += ["", *aligned([("epoch", "reached", "survived", "median"), *rungs])]
    if status.workers:
        workers = [
            (
                *(w.host, str(w.pid), w.job or "-", trial_label(w.trial), f"{w.lease_age_s:.0f} s"),
                *("lost" if w.lost else "running", w.mode or "-", w.data or "-"),
            )
            for w in status.workers
        ]
        lines += ["", *aligned([("worker", "pid", "job", "trial", "lease age", "state", "mode", "data"), *workers])]
    if jobs:
        rows = [(job.job, job.node or "-", _trials(status, job), job.time_left, job.condition) for job in jobs]
        lines += ["", *aligned([("job", "node", "trial", "time left", "state"), *rows])]
    if status.crashes:
        crashes = [
            (trial_label(crash.number), str(crash.attempts), crash.state, crash.reason) for crash in status.crashes
        ]
        lines += ["", *_latest(status, ("crashed", "attempts", "state", "reason"), crashes)]
    if status.diverged:
        diverged = [(trial_label(trial.number), str(trial.epoch), trial.reason) for trial in status.diverged]
        lines += ["", *_latest(status, ("diverged", "epoch", "reason"), diverged)]
    return "\n".join(lines)


def _latest(status: "StudyStatus", head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    latest = rows[-_ROWS_SHOWN:]
    lines = aligned([head, *latest])
    num_left_out = len(rows) - len(latest)
    all_of_them = f"`kdhpc status --study {status.study} --format json`"
    return [*lines, f"and {num_left_out} before: {all_of_them}"] if num_left_out else lines


def _trials(status: "StudyStatus", job: "QueuedJob") -> str:
    """Those that a job trains, one in each of its trial runners."""
    from kdhpc.study.numbers import trial_label

    numbers = [trial_label(worker.trial) for worker in status.workers if worker.job == job.job and not worker.lost]
    return ",".join(numbers) or "-"
