"""What ``kdhpc status`` prints of a study."""

import dataclasses
from collections.abc import Sequence

from kdhpc.cli.parts import Fact, Part, Table
from kdhpc.cli.progress import duration
from kdhpc.cluster.slurm import QueuedJob
from kdhpc.config.goals import GOALS, Goal
from kdhpc.study.numbers import trial_label
from kdhpc.study.ranking import estimate_words, lead_line
from kdhpc.study.status import GivenStatus, StudyStatus, WorkerStatus
from kdhpc.words import counted

_ROWS_SHOWN = 10


def status_parts(status: StudyStatus, jobs: Sequence[QueuedJob]) -> list[Part]:
    """All of it.

    Args:
        status: Of the study.
        jobs: Its jobs; none where there is no Slurm.
    """
    parts: list[Part] = [*fact_parts(status)]
    for table in (given_table(status), rung_table(status), _worker_table(status), _job_table(status, jobs)):
        parts += ["", table] if table.rows else []
    crashes = [(trial_label(crash.number), str(crash.attempts), crash.state, crash.reason) for crash in status.crashes]
    parts += _latest(status, ("crashed", "attempts", "state", "reason"), crashes)
    diverged = [(trial_label(trial.number), str(trial.epoch), trial.reason) for trial in status.diverged]
    parts += _latest(status, ("diverged", "epoch", "reason"), diverged)
    return parts


def fact_parts(status: StudyStatus) -> list[Fact]:
    """What is said of the study as a whole."""
    goal, given = GOALS[status.goal], dataclasses.asdict(status.given_trials)
    given_words = ", ".join(f"{count} {state}" for state, count in given.items() if count)
    lead = lead_line(status.lead, status.study, goal, diverged=status.diverged_given)
    facts = [
        Fact(label="study", text=f"{status.study}{' (stopped: no trial is started)' if status.draining else ''}"),
        Fact(label="target", text=counted(status.target, "trial")),
        Fact(label="trials", text=trial_words(status)),
    ]
    if status.max_gpu_hours is not None:
        facts.append(Fact(label="hours", text=f"{status.hours_used:.2f} of {status.max_gpu_hours:g} used"))
    if goal.short:
        facts.append(Fact(label="goal", text=f"{goal.title}, {'higher' if goal.maximise else 'lower'} is better"))
    if given_words:
        facts.append(Fact(label="given", text=f"{given_words} (outside the budget)"))
    facts.append(Fact(label="best", text=best_words(status)))
    if lead:
        facts.append(Fact(label="lead", text=lead))
    facts.append(Fact(label="speed", text=speed_words(status)))
    facts.append(Fact(label="precision", text=status.precision or "auto: that of the first worker"))
    if status.foreign_trials:
        text = f"{counted(status.foreign_trials, 'trial')} that another program made: in none of these numbers"
        facts.append(Fact(label="foreign", text=text))
    return facts


def trial_words(status: StudyStatus) -> str:
    """The budget by state."""
    states = dataclasses.asdict(status.trials)
    beyond_hours = states.pop("beyond_hours")
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    if beyond_hours:
        counts += f", {beyond_hours} not begun: the hours are used (a larger study.max_gpu_hours goes on)"
    return counts


def best_words(status: StudyStatus) -> str:
    """The best trial, and what is known of it."""
    goal, best = GOALS[status.goal], status.best
    if best is None:
        return "none yet"
    words = f"{goal.shown(best.value)} (trial {best.number})"
    if best.confirmed is not None:
        words += f" in the search, confirmed {estimate_words(best.confirmed, goal)}"
    if status.unconfirmed is not None:
        other = f"trial {status.unconfirmed.number} has {goal.shown(status.unconfirmed.value)} in the search"
        words += f"; {other} and is not confirmed: `kdhpc confirm --study {status.study}` again"
    return words


def speed_words(status: StudyStatus) -> str:
    """Trials per hour, and the time to go."""
    speed = f"{status.trials_per_hour:.1f} trials per hour" if status.trials_per_hour else "-"
    return f"{speed}, about {duration(status.seconds_to_go)} to go" if status.seconds_to_go else speed


def given_table(status: StudyStatus) -> Table:
    """The graphs to compare with."""
    goal = GOALS[status.goal]
    rows = [(given.name, _result_words(given, goal), _left_words(given)) for given in status.given]
    return Table(head=("given graph", goal.short or "accuracy", "trainings"), rows=rows, wraps=("given graph",))


def rung_table(status: StudyStatus) -> Table:
    """How many trials got how far, and their medians."""
    goal = GOALS[status.goal]
    rows = [(str(r.epoch), str(r.reached), str(r.survived), goal.shown(r.median)) for r in status.rungs]
    return Table(head=("epoch", "reached", "survived", "median"), rows=rows)


def epoch_words(worker: WorkerStatus) -> str:
    """The epoch that a worker's trial is in."""
    return "-" if worker.epoch is None else str(worker.epoch)


def speed_of(worker: WorkerStatus) -> str:
    """Images per second of a worker's trial."""
    return "-" if worker.images_per_s is None else f"{worker.images_per_s:.0f}"


def _result_words(given: GivenStatus, goal: Goal) -> str:
    return "-" if given.result is None else estimate_words(given.result, goal)


def _left_words(given: GivenStatus) -> str:
    counts = ((given.open, "to come"), (given.failed, "FAILED"), (given.diverged, "diverged"))
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "done"


def _worker_table(status: StudyStatus) -> Table:
    rows = [
        (
            *(worker.host, str(worker.pid), worker.job or "-", trial_label(worker.trial)),
            *(f"{worker.lease_age_s:.0f} s", "lost" if worker.lost else "running", worker.mode or "-"),
            *(worker.data or "-", epoch_words(worker), speed_of(worker)),
        )
        for worker in status.workers
    ]
    return Table(
        head=("worker", "pid", "job", "trial", "lease age", "state", "mode", "data", "epoch", "images/s"),
        rows=rows,
        spare=("data", "mode", "pid", "images/s", "job"),
        alarming=frozenset(index for index, worker in enumerate(status.workers) if worker.lost),
    )


def _job_table(status: StudyStatus, jobs: Sequence[QueuedJob]) -> Table:
    rows = [(job.job, job.node or "-", _trials(status, job), job.time_left, job.condition) for job in jobs]
    return Table(
        head=("job", "node", "trial", "time left", "state"), rows=rows, spare=("time left", "node"), wraps=("state",)
    )


def _trials(status: StudyStatus, job: QueuedJob) -> str:
    """Those that a job trains, one in each of its trial runners."""
    numbers = [trial_label(worker.trial) for worker in status.workers if worker.job == job.job and not worker.lost]
    return ",".join(numbers) or "-"


def _latest(status: StudyStatus, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[Part]:
    if not rows:
        return []
    latest = rows[-_ROWS_SHOWN:]
    parts: list[Part] = ["", Table(head=head, rows=latest, wraps=("reason",))]
    num_left_out = len(rows) - len(latest)
    all_of_them = f"`kdhpc status --study {status.study} --format json`"
    return [*parts, f"and {num_left_out} before: {all_of_them}"] if num_left_out else parts
