"""All trials of a study that were begun, each with its state: one read-only transaction, without Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Row, text

from kdhpc.graph.space import SearchSpace, canonical
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import slots, study_rows, trial_rows
from kdhpc.study.storage import Storage
from kdhpc.study.study_rows import StudyRow

State = Literal["complete", "pruned", "diverged", "running", "waiting", "failed"]
"""As `kdhpc.study.status.TrialCounts` counts trials."""

_TRIALS = text(f"""
    SELECT trial_id, number, worked_s, reason, last.step, last.intermediate_value, trial_values.value,
        CASE WHEN slots.state IN ('done', 'failed') THEN extract(epoch FROM datetime_complete) END AS ended,
        CASE slots.state
            WHEN 'failed' THEN 'failed'
            WHEN 'held' THEN CASE WHEN {slots.EXPIRED} THEN 'waiting' ELSE 'running' END
            WHEN 'done' THEN CASE
                WHEN diverged_at IS NOT NULL THEN 'diverged'
                WHEN trials.state = 'COMPLETE' THEN 'complete'
                ELSE 'pruned' END
            ELSE 'waiting'
        END AS state
    FROM kdhpc_slots AS slots JOIN trials USING (trial_id)
        LEFT JOIN trial_values USING (trial_id)
        LEFT JOIN LATERAL (
            SELECT step, intermediate_value FROM trial_intermediate_values AS reports
            WHERE reports.trial_id = trials.trial_id ORDER BY step DESC LIMIT 1
        ) AS last ON true
    WHERE slots.study_id = :study_id ORDER BY number
""")
_PARAMETERS = text("""
    SELECT trial_id, param_name, param_value, distribution_json
    FROM kdhpc_slots JOIN trial_params USING (trial_id) WHERE kdhpc_slots.study_id = :study_id
""")


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial that was begun."""

    number: int
    """The trial's number in its study."""
    state: State
    """What became of it so far."""
    value: float | None
    """Accuracy at the end of the training, in percent; None unless the trial is complete."""
    last_epoch: int | None
    """The last epoch at which it reported an accuracy, 1-based; None before the first."""
    last_value: float | None
    """Accuracy at that epoch, in percent."""
    reason: str | None
    """Why the trial failed or diverged, or why its last attempt crashed; None: nothing went wrong."""
    worked_s: float
    """Seconds that workers spent on it. The time of a running trial's present lease is not in it yet."""
    graph: GraphSpec | None
    """What it trains, in canonical form; None: that is still to be chosen."""
    ended: float | None = None
    """When it ended, in seconds since 1970 by the database's clock; None: it has not."""


def read_trials(storage: Storage, name: str) -> tuple[TrialRow, ...]:
    """All trials of a study that a worker has begun, by number.

    Slots that no worker has taken yet have no trial, and so no row.

    Raises:
        UnknownStudyError: the study does not exist.
    """

    return storage.read(lambda connection: trials_of(connection, study_rows.find(connection, name)))


def trials_of(connection: Connection, study: StudyRow) -> tuple[TrialRow, ...]:
    """As :func:`read_trials`, in a transaction of the caller's."""
    parameters: dict[int, dict[str, str]] = {}
    for row in connection.execute(_PARAMETERS, {"study_id": study.study_id}):
        choice = trial_rows.choice(row.distribution_json, row.param_value)
        parameters.setdefault(row.trial_id, {})[row.param_name] = choice
    rows = connection.execute(_TRIALS, {"study_id": study.study_id}).all()
    space = study.definition.space
    return tuple(_trial_row(row, space, parameters.get(row.trial_id, {})) for row in rows)


def _trial_row(row: Row[tuple[object, ...]], space: SearchSpace, parameters: Mapping[str, str]) -> TrialRow:
    return TrialRow(
        number=row.number,
        state=row.state,
        value=row.value if row.state == "complete" else None,
        last_epoch=row.step,
        last_value=row.intermediate_value,
        reason=row.reason,
        worked_s=row.worked_s,
        graph=canonical(space.from_parameters(parameters)) if parameters else None,
        ended=None if row.ended is None else float(row.ended),
    )
