"""How far a study is: read from the database in one transaction, without Optuna, and without changing anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Row, text

from kdhpc.config.goals import DEFAULT_GOAL, GOALS, Goal
from kdhpc.graph.space import SearchSpace, canonical, graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import foreign, given, slots, study_rows, trial_rows
from kdhpc.study.given import GivenResult
from kdhpc.study.hours import SPENT, Hours, read_hours
from kdhpc.study.ranking import (
    UNCONFIRMED,
    Estimate,
    Lead,
    advantage,
    classes,
    confirmed,
    estimate,
    leads,
)
from kdhpc.study.storage import Storage
from kdhpc.study.study_rows import StudyRow
from kdhpc.study.trial_rows import ATTRIBUTE

_SPEED_TRIALS = 50


@dataclass(frozen=True, kw_only=True)
class TrialCounts:
    """Trials of the budget, by state."""

    complete: int
    """Trained to the end."""
    pruned: int
    """Ended early by the pruning rule."""
    diverged: int = 0
    """Ended early because their numbers were none any more; not among the pruned."""
    running: int
    """A worker holds the slot, and its lease stands."""
    waiting: int
    """To be leased: never started, interrupted, or held by a worker whose lease has expired."""
    failed: int
    """Crashed too often."""
    beyond_hours: int = 0
    """Never started, and not to be: the study's hours are used; not among the waiting."""

    @property
    def target(self) -> int:
        """The budget: all of them."""
        return self.finished + self.unfinished + self.beyond_hours

    @property
    def finished(self) -> int:
        """Those that nobody will go on with."""
        return self.complete + self.pruned + self.diverged + self.failed

    @property
    def ended_well(self) -> int:
        """Complete, pruned and diverged trials: each shows that its worker works."""
        return self.complete + self.pruned + self.diverged

    @property
    def unfinished(self) -> int:
        """Those that are still to be trained, or to be trained on."""
        return self.running + self.waiting


NO_TRIALS = TrialCounts(complete=0, pruned=0, running=0, waiting=0, failed=0)
"""Of a study that was given no graphs."""


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """The best complete trial, by its confirmation where any graph was confirmed; the earliest of several."""

    number: int
    """Its number."""
    value: float
    """In the search, by the study's goal: such as the ensemble's accuracy, in percent."""
    confirmed: Estimate | None = None
    """What its graph comes to with new seeds; None: it was not confirmed."""


@dataclass(frozen=True, kw_only=True)
class GivenStatus:
    """A graph that is trained outside the budget, to compare with."""

    name: str
    """Of the preset, or of the graph's file."""
    graph_key: str
    """12 hexadecimal digits."""
    result: Estimate | None
    """What its trainings have come to; None before the first."""
    open: int
    """Trainings that are still to come, or run."""
    failed: int
    """Trainings that crashed too often."""
    diverged: int
    """Trainings whose numbers were none any more."""


@dataclass(frozen=True, kw_only=True)
class RungStatus:
    """An epoch at which trials have reported; failed trials left out."""

    epoch: int
    """1-based."""
    reached: int
    """Trials that reported at it."""
    survived: int
    """Those that were not pruned at it."""
    median: float
    """Of what they reported, by the study's goal."""


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """A worker that holds a slot."""

    host: str
    """Name of its machine."""
    pid: int
    """Process id there."""
    job: str | None
    """The batch job that it is part of."""
    trial: int
    """Number of the trial; of a given trial, which is outside the budget, a negative one: -1 is the first."""
    lease_age_s: float
    """Time since its last sign of life."""
    lost: bool
    """Its lease has expired."""
    mode: str | None
    """How its steps run (see ``device.mode``); None before the first."""
    data: str | None
    """Where its images are: ``disk``, ``resident``, ``streamed``; None before the first step."""
    epoch: int | None = None
    """The epoch that the training was in at its last sign of life, 1-based; None before its first step."""
    images_per_s: float | None = None
    """Images that it was shown, per second between its last two signs of life; None: too few steps to tell."""


@dataclass(frozen=True, kw_only=True)
class CrashedTrial:
    """A trial whose last attempt crashed, or that was given up."""

    number: int
    """Its number; a given trial's is negative."""
    attempts: int
    """So far; of one that is tried again, this one included."""
    state: str
    """``failed``, or still to be tried again: ``waiting``, ``running``."""
    reason: str
    """What went wrong, and on which machine."""
    job: str | None = None
    """The batch job of the worker in whose hands that was."""

    @property
    def vanished(self) -> bool:
        """Whether that worker said nothing: its log may, or what Slurm has written there."""
        return slots.WITHOUT_A_WORD in self.reason


@dataclass(frozen=True, kw_only=True)
class DivergedTrial:
    """A trial whose numbers were none any more."""

    number: int
    """Its number; a given trial's is negative."""
    epoch: int
    """In which that was found, 1-based."""
    reason: str
    """Which numbers."""


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """How far a study is."""

    study: str
    """Its name."""
    target: int
    """The budget of trials."""
    draining: bool
    """Its workers were asked to checkpoint and exit."""
    precision: str | None
    """What its networks are computed in; None before its first worker has settled it."""
    trials: TrialCounts
    """The budget by state."""
    best: BestTrial | None
    """None before the first complete trial."""
    rungs: tuple[RungStatus, ...]
    """By epoch."""
    workers: tuple[WorkerStatus, ...]
    """By slot."""
    crashes: tuple[CrashedTrial, ...]
    """Trials that are failed, or whose last attempt crashed, by number."""
    diverged: tuple[DivergedTrial, ...] = ()
    """By number."""
    foreign_trials: int = 0
    """Trials that another program has put into the study: they are in none of these numbers."""
    trials_per_hour: float | None
    """What the workers of this moment do, going by the last 50 trials; None before the first."""
    seconds_to_go: float | None
    """At that speed; None if nobody works or the speed is not known."""
    hours_used: float = 0.0
    """Hours that workers have spent on its trials, see ``kdhpc.study.hours``."""
    max_gpu_hours: float | None = None
    """At so many hours no more trials begin; None: there is no such budget."""
    goal: str = DEFAULT_GOAL
    """What its values are, see ``kdhpc.config.goals``."""
    given_trials: TrialCounts = NO_TRIALS
    """Given trials, which are outside the budget, by state: baselines, enqueued graphs, confirmations."""
    given: tuple[GivenStatus, ...] = ()
    """The given graphs to compare with, in the order in which they were given."""
    lead: tuple[Lead, ...] = ()
    """By how much the best graph is better than each of them."""
    unconfirmed: BestTrial | None = None
    """Where the best graph is confirmed: a trial that is better than it in the search and is not confirmed, if any."""

    @property
    def diverged_given(self) -> tuple[str, ...]:
        """Names of the given graphs to compare with that have no value, as all their trainings diverged."""
        return tuple(one.name for one in self.given if one.result is None and one.diverged and not one.open)

    @property
    def waiting(self) -> int:
        """Trials to be leased, given ones included."""
        return self.trials.waiting + self.given_trials.waiting

    @property
    def running(self) -> int:
        """Trials that workers hold, given ones included."""
        return self.trials.running + self.given_trials.running

    @property
    def unfinished(self) -> int:
        """Trials to be trained or trained on, given ones included."""
        return self.trials.unfinished + self.given_trials.unfinished

    @property
    def ended_well(self) -> int:
        """Trials that show that their worker works, given ones included."""
        return self.trials.ended_well + self.given_trials.ended_well


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A complete trial."""

    number: int
    """Its number."""
    value: float
    """In the search, by the study's goal: such as the ensemble's accuracy, in percent."""
    graph: GraphSpec
    """What was trained, in canonical form."""
    worked_s: float
    """Time that workers spent on it, in seconds."""
    confirmed: Estimate | None = None
    """What its graph comes to with new seeds; None: it was not confirmed."""
    run: Mapping[str, str] = field(default_factory=dict, hash=False)
    """How it ran, and with what: see `kdhpc.study.leased_trial.LeasedTrial.describe`."""


def server_version(storage: Storage) -> str:
    """The version of PostgreSQL, in its own words.

    Raises:
        DatabaseError: it does not answer.
    """
    return str(storage.read(lambda connection: connection.execute(text("SHOW server_version")).scalar_one()))


def study_names(storage: Storage) -> tuple[str, ...]:
    """All studies in the database, by name."""
    return storage.read(study_rows.names)


def read_status(storage: Storage, name: str, *, uid: str | None = None) -> StudyStatus:
    """How far a study is. All numbers are of the same point in time.

    Args:
        storage: the server.
        name: of the study.
        uid: that it must have, for whoever has watched it for a while; None: any study of that name.

    Raises:
        UnknownStudyError: it does not exist, or was deleted and another one made.
    """

    return storage.read(lambda connection: status_of(connection, name, uid=uid))


def status_of(connection: Connection, name: str, *, uid: str | None = None) -> StudyStatus:
    """As :func:`read_status`, in a transaction of the caller's."""
    study_id = study_rows.find_id(connection, name, uid=uid)
    name_of_goal = study_rows.goal(connection, study_id)
    goal = GOALS[name_of_goal]
    hours = read_hours(connection, study_id)
    counts = read_counts(connection, study_id)
    leases = slots.active_leases(connection, study_id)
    given_counts = read_given_counts(connection, study_id)
    results = given.results(connection, study_id)
    best = _read_best(connection, study_id, results, goal)
    trial_s = _mean_worked_s(connection, study_id)
    return StudyStatus(
        study=name,
        target=counts.target,
        draining=study_rows.is_draining(connection, study_id),
        precision=study_rows.read_precision(connection, study_id),
        trials=counts,
        best=best,
        rungs=_read_rungs(connection, study_id),
        workers=tuple(_worker(lease) for lease in leases),
        crashes=_read_crashes(connection, study_id),
        diverged=_read_diverged(connection, study_id),
        hours_used=hours.used,
        max_gpu_hours=hours.budget,
        goal=name_of_goal,
        foreign_trials=foreign.count(connection, study_id),
        trials_per_hour=3600 * counts.running / trial_s if trial_s else None,
        seconds_to_go=_seconds_to_go(counts, given_counts, trial_s, hours),
        given_trials=given_counts,
        given=tuple(_given_status(result, result.name) for result in results if result.name is not None),
        lead=() if best is None else leads(best.value, best.confirmed, results, goal),
        unconfirmed=None
        if best is None or best.confirmed is None
        else _read_unconfirmed(connection, study_id, best, goal),
    )


def top_trials(storage: Storage, name: str, k: int) -> tuple[TrialRecord, ...]:
    """The best complete trials, best first, the earlier of equals first; fewer where there are fewer.

    Those whose graphs were confirmed come first, by the mean of their new trainings.

    Raises:
        UnknownStudyError: the study does not exist.
    """

    return storage.read(lambda connection: best_trials(connection, study_rows.find(connection, name), k))


def best_trials(connection: Connection, study: StudyRow, k: int) -> tuple[TrialRecord, ...]:
    """As :func:`top_trials`, in a transaction of the caller's."""
    results = given.results(connection, study.study_id)
    known = {result.graph_key: confirmed(result) for result in results}
    rows = _ranked(connection, study.study_id, results, GOALS[study.definition.goal], limit=k)
    return tuple(
        TrialRecord(
            number=row.number,
            value=row.value,
            graph=canonical(
                study.definition.space.from_parameters(trial_rows.read_parameters(connection, row.trial_id))
            ),
            worked_s=row.worked_s,
            confirmed=known.get(row.graph_key),
            run=trial_rows.read_note(connection, row.trial_id).get("run", {}),
        )
        for row in rows
    )


def read_counts(connection: Connection, study_id: int) -> TrialCounts:
    """The budget by state."""
    row = connection.execute(_COUNTS, {"study_id": study_id}).one()
    beyond = row.unbegun if row.spent else 0
    return TrialCounts(
        complete=row.complete,
        pruned=row.done - row.complete - row.diverged,
        diverged=row.diverged,
        running=row.running,
        waiting=row.total - row.done - row.running - row.failed - beyond,
        beyond_hours=beyond,
        failed=row.failed,
    )


_COUNTS = text(f"""
    SELECT count(*) AS total,
        count(*) FILTER (WHERE slots.state = 'done') AS done,
        count(*) FILTER (WHERE slots.state = 'done' AND trials.state = 'COMPLETE') AS complete,
        count(*) FILTER (WHERE slots.state = 'done' AND diverged_at IS NOT NULL) AS diverged,
        count(*) FILTER (WHERE slots.state = 'held' AND NOT {slots.EXPIRED}) AS running,
        count(*) FILTER (WHERE slots.state = 'failed') AS failed,
        count(*) FILTER (WHERE slots.state = 'free' AND slots.trial_id IS NULL) AS unbegun,
        {SPENT} AS spent
    FROM kdhpc_slots AS slots LEFT JOIN trials USING (trial_id) WHERE slots.study_id = :study_id
""")
_BEST = text(f"""
    SELECT trial_id, number, value, worked_s, graph_key FROM (
        SELECT slots.trial_id, number, value, worked_s, CAST(value_json AS jsonb) ->> 'graph' AS graph_key
        FROM kdhpc_slots AS slots JOIN trials USING (trial_id) JOIN trial_values USING (trial_id)
            LEFT JOIN trial_user_attributes AS notes ON notes.trial_id = trials.trial_id AND notes.key = :key
        WHERE slots.study_id = :study_id AND slots.state = 'done' AND trials.state = 'COMPLETE'
            AND objective = 0 AND value_type = 'FINITE'
    ) AS found LEFT JOIN unnest(CAST(:keys AS text[]), CAST(:classes AS integer[]), CAST(:means AS float8[]))
        AS known (graph_key, class, mean) USING (graph_key)
    ORDER BY coalesce(class, {UNCONFIRMED}), CAST(:sign AS integer) * mean DESC NULLS LAST,
        CAST(:sign AS integer) * value DESC, number LIMIT :limit
""")
_RUNGS = text("""
    SELECT step, count(*) AS reached,
        count(*) FILTER (WHERE NOT (is_pruned AND step = last_step)) AS survived,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY intermediate_value) AS median
    FROM (
        SELECT trials.state = 'PRUNED' AND diverged_at IS NULL AS is_pruned, step, intermediate_value,
            max(step) OVER (PARTITION BY trial_id) AS last_step
        FROM kdhpc_slots AS slots JOIN trials USING (trial_id) JOIN trial_intermediate_values USING (trial_id)
        WHERE slots.study_id = :study_id AND slots.state <> 'failed'
    ) AS reports
    GROUP BY step ORDER BY step
""")
_CRASHES = text(f"""
    SELECT CASE WHEN graph_key IS NULL THEN number ELSE -1 - slot END AS number, attempts, reason,
        CASE slots.state WHEN 'free' THEN 'waiting' WHEN 'held' THEN 'running' ELSE 'failed' END AS state,
        CAST(value_json AS jsonb) -> 'owners' -> CASE slots.state WHEN 'held' THEN -2 ELSE -1 END ->> 'job' AS job
    FROM kdhpc_slots AS slots JOIN trials USING (trial_id)
        LEFT JOIN trial_user_attributes AS notes ON notes.trial_id = trials.trial_id AND notes.key = :key
    WHERE slots.study_id {slots.OF_BOTH} AND reason IS NOT NULL AND diverged_at IS NULL ORDER BY number
""")
_DIVERGED = text(f"""
    SELECT CASE WHEN graph_key IS NULL THEN number ELSE -1 - slot END AS number, diverged_at, reason
    FROM kdhpc_slots AS slots JOIN trials USING (trial_id)
    WHERE slots.study_id {slots.OF_BOTH} AND diverged_at IS NOT NULL ORDER BY number
""")
_WORKED = text("""
    SELECT avg(worked_s) FROM (
        SELECT worked_s FROM kdhpc_slots AS slots JOIN trials USING (trial_id)
        WHERE slots.study_id = :study_id AND slots.state = 'done' ORDER BY datetime_complete DESC LIMIT :limit
    ) AS latest
""")


def best_graphs(connection: Connection, study_id: int, space: SearchSpace, goal: Goal, k: int) -> tuple[GraphSpec, ...]:
    """The best graphs by their values in the search alone, best first, each once, in canonical form."""
    found: dict[str, GraphSpec] = {}
    for row in _ranked(connection, study_id, (), goal, limit=None):
        graph = canonical(space.from_parameters(trial_rows.read_parameters(connection, row.trial_id)))
        found.setdefault(graph_key(graph), graph)
        if len(found) == k:
            break
    return tuple(found.values())


def read_given_counts(connection: Connection, study_id: int) -> TrialCounts:
    """Given trials, by state."""
    companion = given.companion(connection, study_id)
    return NO_TRIALS if companion is None else read_counts(connection, companion)


def _ranked(
    connection: Connection, study_id: int, results: Sequence[GivenResult], goal: Goal, *, limit: int | None
) -> Sequence[Row[tuple[int, int, float, float, str | None]]]:
    """Complete trials, best first: trial_id, number, value, worked_s, graph_key."""
    known = classes(results)
    values = {
        "study_id": study_id,
        "key": ATTRIBUTE,
        "keys": list(known),
        "classes": [rank for rank, _ in known.values()],
        "means": [mean for _, mean in known.values()],
        "sign": goal.sign,
        "limit": limit,
    }
    return connection.execute(_BEST, values).all()


def _read_best(connection: Connection, study_id: int, results: Sequence[GivenResult], goal: Goal) -> BestTrial | None:
    for row in _ranked(connection, study_id, results, goal, limit=1):
        known = next((confirmed(result) for result in results if result.graph_key == row.graph_key), None)
        return BestTrial(number=row.number, value=row.value, confirmed=known)
    return None


def _read_unconfirmed(connection: Connection, study_id: int, best: BestTrial, goal: Goal) -> BestTrial | None:
    """The best trial by its value in the search, if its graph is no candidate and beats the best one there."""
    (first,) = _ranked(connection, study_id, (), goal, limit=1)
    candidates = {result.graph_key for result in given.results(connection, study_id) if result.is_candidate}
    if first.graph_key in candidates or advantage(first.value, best.value, goal) <= 0:
        return None
    return BestTrial(number=first.number, value=first.value)


def _given_status(result: GivenResult, name: str) -> GivenStatus:
    return GivenStatus(
        name=name,
        graph_key=result.graph_key,
        result=estimate(result.values),
        open=result.open,
        failed=result.failed,
        diverged=result.diverged,
    )


def _read_rungs(connection: Connection, study_id: int) -> tuple[RungStatus, ...]:
    rows = connection.execute(_RUNGS, {"study_id": study_id})
    return tuple(
        RungStatus(epoch=row.step, reached=row.reached, survived=row.survived, median=row.median) for row in rows
    )


def _read_crashes(connection: Connection, study_id: int) -> tuple[CrashedTrial, ...]:
    rows = connection.execute(_CRASHES, {"study_id": study_id, "key": ATTRIBUTE})
    return tuple(
        CrashedTrial(number=row.number, attempts=row.attempts, state=row.state, reason=row.reason, job=row.job)
        for row in rows
    )


def _read_diverged(connection: Connection, study_id: int) -> tuple[DivergedTrial, ...]:
    rows = connection.execute(_DIVERGED, {"study_id": study_id})
    return tuple(DivergedTrial(number=row.number, epoch=row.diverged_at, reason=row.reason) for row in rows)


def _mean_worked_s(connection: Connection, study_id: int) -> float | None:
    mean = connection.execute(_WORKED, {"study_id": study_id, "limit": _SPEED_TRIALS}).scalar_one()
    return None if mean is None else float(mean)


def _seconds_to_go(counts: TrialCounts, given_counts: TrialCounts, trial_s: float | None, hours: Hours) -> float | None:
    """Running trials are half done, on average. Once the hours are used, only those and the given ones go on."""
    running = counts.running + given_counts.running
    left, left_given = counts.waiting + counts.running / 2, given_counts.waiting + given_counts.running / 2
    if left + left_given == 0:
        return 0.0
    if not trial_s or not running:
        return None
    if hours.budget is not None:
        left = min(left, max(0.0, hours.budget - hours.used) * 3600 / trial_s + counts.running / 2)
    return (left + left_given) * trial_s / running


def _worker(lease: slots.ActiveLease) -> WorkerStatus:
    owner = lease.owner
    return WorkerStatus(
        host=owner.host,
        pid=owner.pid,
        job=owner.job,
        trial=lease.number,
        lease_age_s=lease.lease_age_s,
        lost=lease.lost,
        mode=lease.mode,
        data=lease.data,
        epoch=None if lease.pace is None else lease.pace.epoch,
        images_per_s=None if lease.pace is None else lease.pace.images_per_s,
    )
