"""What became of a whole search, for its report: all that is told is of one point in time.

One read-only transaction, without Optuna.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from kdhpc.study import given, study_rows
from kdhpc.study.definition import StudyDefinition
from kdhpc.study.given import GivenResult
from kdhpc.study.slots import CRASHED, EXPIRED, GIVEN_BACK, OF_BOTH, VANISHED
from kdhpc.study.status import StudyStatus, TrialRecord, best_trials, status_of
from kdhpc.study.storage import Storage
from kdhpc.study.trial_rows import ATTRIBUTE
from kdhpc.study.trial_table import TrialRow, trials_of

_MOST_CONFIRMED = 20

_TIMES = text("""
    SELECT extract(epoch FROM created) AS created, extract(epoch FROM now()) AS now
    FROM kdhpc_studies WHERE study_id = :study_id
""")
_REPORTS = text("""
    SELECT number, step, intermediate_value AS value
    FROM kdhpc_slots AS slots JOIN trials USING (trial_id) JOIN trial_intermediate_values USING (trial_id)
    WHERE slots.study_id = :study_id AND number = ANY(:numbers) ORDER BY number, step
""")
# A lease that stands counts up to its last sign of life.
_SPENT = text(f"""
    SELECT slots.study_id <> :study_id AS is_given, count(*) AS trials,
        CASE WHEN slots.state = 'failed' THEN 'failed'
            WHEN slots.state = 'held' AND NOT {EXPIRED} THEN 'running'
            WHEN slots.state <> 'done' THEN 'waiting'
            WHEN diverged_at IS NOT NULL THEN 'diverged'
            WHEN trials.state = 'COMPLETE' THEN 'complete'
            ELSE 'pruned' END AS state,
        sum(worked_s + CASE WHEN slots.state = 'held'
            THEN greatest(0, extract(epoch FROM renewed - claimed)) ELSE 0 END) AS seconds
    FROM kdhpc_slots AS slots JOIN trials USING (trial_id) WHERE slots.study_id {OF_BOTH} GROUP BY 1, 3 ORDER BY 1, 3
""")
# As in `kdhpc.study.hours`: a worker that vanished has written no end of its lease, what others have not is its time.
_LEFT = text(f"""
    WITH noted AS (
        SELECT slots.state, worked_s, renewed, claimed, CAST(value_json AS jsonb) AS note
        FROM kdhpc_slots AS slots JOIN trial_user_attributes AS notes
            ON notes.trial_id = slots.trial_id AND notes.key = :key
        WHERE slots.study_id {OF_BOTH} AND jsonb_array_length(
            coalesce(CAST(value_json AS jsonb) -> 'owners', CAST('[]' AS jsonb))) > 1
    ), ended AS (
        SELECT span ->> 3 AS how, greatest(0, CAST(span ->> 1 AS float8) - CAST(span ->> 0 AS float8)) AS seconds
        FROM noted CROSS JOIN LATERAL jsonb_array_elements(
            coalesce(note -> 'leases', CAST('[]' AS jsonb))) AS spans(span)
    ), vanished AS (
        SELECT greatest(0, jsonb_array_length(note -> 'owners') - CASE WHEN state = 'free' THEN 0 ELSE 1 END
                - coalesce(jsonb_array_length(note -> 'leases'), 0)) AS times,
            greatest(0, worked_s - CASE WHEN state IN ('done', 'failed')
                THEN greatest(0, extract(epoch FROM renewed - claimed)) ELSE 0 END
                - coalesce((SELECT sum(greatest(0, CAST(span ->> 1 AS float8) - CAST(span ->> 0 AS float8)))
                    FROM jsonb_array_elements(note -> 'leases') AS spans(span)), 0)) AS seconds
        FROM noted
    )
    SELECT how, count(*) AS times, sum(seconds) AS seconds FROM ended GROUP BY how
    UNION ALL
    SELECT '{VANISHED}', sum(times), sum(seconds) FROM vanished WHERE times > 0 HAVING count(*) > 0
""")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Time that workers spent on some trials."""

    is_given: bool
    """They are given trials, which are outside the budget."""
    state: str
    """What became of them so far, as `kdhpc.study.trial_table.State` has it."""
    trials: int
    """How many were begun."""
    hours: float
    """Of all of them, each counted by itself. That of a running lease counts up to its last sign of life."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """Leases that ended before their trials did."""

    how: str
    """``given back``, ``crashed`` or ``vanished``."""
    times: int
    """How often, of each trial's latest 20 leases."""
    hours: float
    """From the beginnings of these leases to their ends."""


@dataclass(frozen=True, kw_only=True)
class SearchHistory:
    """A search, as of now."""

    definition: StudyDefinition
    """What its study was made with."""
    uid: str
    """The study's own."""
    created: float
    """When the study was made, in seconds since 1970 by the database's clock."""
    read_at: float
    """When this was read, as well."""
    status: StudyStatus
    """How far it is."""
    trials: tuple[TrialRow, ...]
    """Those that were begun, by number."""
    best: tuple[TrialRecord, ...]
    """The best complete ones, best first; with all that are confirmed, up to 20."""
    curves: Mapping[int, Sequence[tuple[int, float]]]
    """Of the best, by number: epoch (1-based) and value of each report."""
    given: tuple[GivenResult, ...]
    """What the given graphs came to."""
    spent: tuple[Spent, ...]
    """Where the time went."""
    left: tuple[Left, ...]
    """Leases that did not see the end of their trials."""


def read_search(storage: Storage, name: str, *, top: int) -> SearchHistory:
    """All about a search.

    Args:
        storage: The server.
        name: Of the study.
        top: How many of the best trials, at least.

    Raises:
        UnknownStudyError: the study does not exist.
    """

    def read(connection: Connection) -> SearchHistory:
        study = study_rows.find(connection, name)
        values = {"study_id": study.study_id}
        results = given.results(connection, study.study_id)
        num_candidates = min(_MOST_CONFIRMED, sum(result.is_candidate for result in results))
        best = best_trials(connection, study, max(top, num_candidates))
        times = connection.execute(_TIMES, values).one()
        return SearchHistory(
            definition=study.definition,
            uid=study.uid,
            created=float(times.created),
            read_at=float(times.now),
            status=status_of(connection, name),
            trials=trials_of(connection, study),
            best=best,
            curves=_read_curves(connection, study.study_id, [trial.number for trial in best[:top]]),
            given=results,
            spent=tuple(
                Spent(is_given=row.is_given, state=row.state, trials=row.trials, hours=float(row.seconds) / 3600)
                for row in connection.execute(_SPENT, values)
            ),
            left=_read_left(connection, study.study_id),
        )

    return storage.read(read)


def _read_curves(connection: Connection, study_id: int, numbers: Sequence[int]) -> dict[int, list[tuple[int, float]]]:
    curves: dict[int, list[tuple[int, float]]] = {number: [] for number in numbers}
    for row in connection.execute(_REPORTS, {"study_id": study_id, "numbers": list(numbers)}):
        curves[row.number].append((row.step, row.value))
    return curves


def _read_left(connection: Connection, study_id: int) -> tuple[Left, ...]:
    rows = connection.execute(_LEFT, {"study_id": study_id, "key": ATTRIBUTE}).all()
    found = {row.how: Left(how=row.how, times=int(row.times), hours=float(row.seconds) / 3600) for row in rows}
    return tuple(found[how] for how in (CRASHED, VANISHED, GIVEN_BACK) if how in found)
