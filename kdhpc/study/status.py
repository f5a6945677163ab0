"""How far a study is: read from the database in one transaction, without Optuna, and without changing anything."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from kdhpc.config.goals import DEFAULT_GOAL, GOALS
from kdhpc.graph.space import canonical
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import foreign, slots, study_rows, trial_rows
from kdhpc.study.hours import SPENT, Hours, read_hours
from kdhpc.study.storage import Storage

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


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """The best complete trial; the earliest of several."""

    number: int
    """Its number."""
    value: float
    """By the study's goal: such as the ensemble's accuracy, in percent."""


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
    """Number of the trial."""
    lease_age_s: float
    """Time since its last sign of life."""
    lost: bool
    """Its lease has expired."""
    mode: str | None
    """How its steps run (see ``device.mode``); None before the first."""
    data: str | None
    """Where its images are: ``disk``, ``resident``, ``streamed``; None before the first step."""


@dataclass(frozen=True, kw_only=True)
class CrashedTrial:
    """A trial whose last attempt crashed, or that was given up."""

    number: int
    """Its number."""
    attempts: int
    """So far; of one that is tried again, this one included."""
    state: str
    """``failed``, or still to be tried again: ``waiting``, ``running``."""
    reason: str
    """What went wrong, and on which machine."""


@dataclass(frozen=True, kw_only=True)
class DivergedTrial:
    """A trial whose numbers were none any more."""

    number: int
    """Its number."""
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


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A complete trial."""

    number: int
    """Its number."""
    value: float
    """By the study's goal: such as the ensemble's accuracy, in percent."""
    graph: GraphSpec
    """What was trained, in canonical form."""
    worked_s: float
    """Time that workers spent on it, in seconds."""


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

    def read(connection: Connection) -> StudyStatus:
        study_id = study_rows.find_id(connection, name, uid=uid)
        goal = study_rows.goal(connection, study_id)
        hours = read_hours(connection, study_id)
        counts = read_counts(connection, study_id)
        leases = slots.active_leases(connection, study_id)
        trial_s = _mean_worked_s(connection, study_id)
        return StudyStatus(
            study=name,
            target=counts.target,
            draining=study_rows.is_draining(connection, study_id),
            precision=study_rows.read_precision(connection, study_id),
            trials=counts,
            best=_read_best(connection, study_id, GOALS[goal].sign),
            rungs=_read_rungs(connection, study_id),
            workers=tuple(_worker(lease) for lease in leases),
            crashes=_read_crashes(connection, study_id),
            diverged=_read_diverged(connection, study_id),
            hours_used=hours.used,
            max_gpu_hours=hours.budget,
            goal=goal,
            foreign_trials=foreign.count(connection, study_id),
            trials_per_hour=3600 * counts.running / trial_s if trial_s else None,
            seconds_to_go=_seconds_to_go(counts, trial_s, hours, num_workers=len({lease.owner for lease in leases})),
        )

    return storage.read(read)


def top_trials(storage: Storage, name: str, k: int) -> tuple[TrialRecord, ...]:
    """The best complete trials, best first, the earlier of equals first; fewer where there are fewer.

    Raises:
        UnknownStudyError: the study does not exist.
    """

    def read(connection: Connection) -> tuple[TrialRecord, ...]:
        study = study_rows.find(connection, name)
        sign = GOALS[study.definition.goal].sign
        rows = connection.execute(_BEST, {"study_id": study.study_id, "limit": k, "sign": sign}).all()
        return tuple(
            TrialRecord(
                number=row.number,
                value=row.value,
                graph=canonical(
                    study.definition.space.from_parameters(trial_rows.read_parameters(connection, row.trial_id))
                ),
                worked_s=row.worked_s,
            )
            for row in rows
        )

    return storage.read(read)


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
_BEST = text("""
    SELECT trial_id, number, value, worked_s
    FROM kdhpc_slots AS slots JOIN trials USING (trial_id) JOIN trial_values USING (trial_id)
    WHERE slots.study_id = :study_id AND slots.state = 'done' AND trials.state = 'COMPLETE'
        AND objective = 0 AND value_type = 'FINITE'
    ORDER BY CAST(:sign AS integer) * value DESC, number LIMIT :limit
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
_CRASHES = text("""
    SELECT number, attempts, reason,
        CASE slots.state WHEN 'free' THEN 'waiting' WHEN 'held' THEN 'running' ELSE 'failed' END AS state
    FROM kdhpc_slots AS slots JOIN trials USING (trial_id)
    WHERE slots.study_id = :study_id AND reason IS NOT NULL AND diverged_at IS NULL ORDER BY number
""")
_DIVERGED = text("""
    SELECT number, diverged_at, reason FROM kdhpc_slots AS slots JOIN trials USING (trial_id)
    WHERE slots.study_id = :study_id AND diverged_at IS NOT NULL ORDER BY number
""")
_WORKED = text("""
    SELECT avg(worked_s) FROM (
        SELECT worked_s FROM kdhpc_slots AS slots JOIN trials USING (trial_id)
        WHERE slots.study_id = :study_id AND slots.state = 'done' ORDER BY datetime_complete DESC LIMIT :limit
    ) AS latest
""")


def _read_best(connection: Connection, study_id: int, sign: int) -> BestTrial | None:
    row = connection.execute(_BEST, {"study_id": study_id, "limit": 1, "sign": sign}).one_or_none()
    return None if row is None else BestTrial(number=row.number, value=row.value)


def _read_rungs(connection: Connection, study_id: int) -> tuple[RungStatus, ...]:
    rows = connection.execute(_RUNGS, {"study_id": study_id})
    return tuple(
        RungStatus(epoch=row.step, reached=row.reached, survived=row.survived, median=row.median) for row in rows
    )


def _read_crashes(connection: Connection, study_id: int) -> tuple[CrashedTrial, ...]:
    rows = connection.execute(_CRASHES, {"study_id": study_id})
    return tuple(
        CrashedTrial(number=row.number, attempts=row.attempts, state=row.state, reason=row.reason) for row in rows
    )


def _read_diverged(connection: Connection, study_id: int) -> tuple[DivergedTrial, ...]:
    rows = connection.execute(_DIVERGED, {"study_id": study_id})
    return tuple(DivergedTrial(number=row.number, epoch=row.diverged_at, reason=row.reason) for row in rows)


def _mean_worked_s(connection: Connection, study_id: int) -> float | None:
    mean = connection.execute(_WORKED, {"study_id": study_id, "limit": _SPEED_TRIALS}).scalar_one()
    return None if mean is None else float(mean)


def _seconds_to_go(counts: TrialCounts, trial_s: float | None, hours: Hours, *, num_workers: int) -> float | None:
    """Running trials are half done, on average. Once the hours are used, only those go on."""
    left = counts.waiting + counts.running / 2
    if left == 0:
        return 0.0
    if not trial_s or not counts.running:
        return None
    by_trials = left * trial_s / counts.running
    if hours.budget is None:
        return by_trials
    return min(by_trials, max(0.0, hours.budget - hours.used) * 3600 / num_workers + trial_s / 2)


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
    )
