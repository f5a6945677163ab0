"""A study's budget in hours (``study.max_gpu_hours``): how much is used, and whether new trials may still begin.

The time used is that in which workers held trials of the study, by the database's clock:

- from each lease of a slot to its end: the trial's, its release, its crash. A lease that stands counts up to now; one
  that expired, up to when it was last renewed. Attempts that crashed or were interrupted count.
- Time in which one worker (a process, with one GPU or none) held several trials at once counts once.
  What workers that vanished had spent on trials that others have taken over since counts for each trial by itself.

Once it has reached the budget, no trial begins. Trials that were begun go on to their end, also after an interruption.
So a study uses more than its budget by what is left of the trials that run when it is reached.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from kdhpc.study.slots import EXPIRED
from kdhpc.study.trial_rows import ATTRIBUTE

_KEY = "kdhpc:max_gpu_hours"
"""The budget is an attribute of Optuna's study: a JSON number."""

_LENGTH = "greatest(0, extract(epoch FROM {until} - {since}))"
_NOTED = f"""
    FROM kdhpc_slots AS slots
        JOIN trial_user_attributes AS notes ON notes.trial_id = slots.trial_id AND notes.key = '{ATTRIBUTE}'
        CROSS JOIN LATERAL jsonb_array_elements(
            coalesce(CAST(value_json AS jsonb) -> 'leases', CAST('[]' AS jsonb))) AS spans(span)
    WHERE slots.study_id = :study_id
"""
# Leases of one worker, by their beginning: each adds what is after the end of all before it.
USED_S = f"""(
    WITH held AS (
        SELECT owner_token, claimed AS began,
            CASE WHEN state = 'held' AND NOT {EXPIRED} THEN now() ELSE renewed END AS ended
        FROM kdhpc_slots WHERE study_id = :study_id AND claimed IS NOT NULL
        UNION ALL
        SELECT span ->> 2, to_timestamp(CAST(span ->> 0 AS float8)), to_timestamp(CAST(span ->> 1 AS float8))
        {_NOTED}
    ), ordered AS (
        SELECT began, ended, max(ended) OVER (PARTITION BY owner_token ORDER BY began, ended
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM held
    ), vanished AS (
        SELECT sum(worked_s - CASE WHEN state IN ('done', 'failed')
            THEN {_LENGTH.format(until="renewed", since="claimed")} ELSE 0 END) AS seconds
        FROM kdhpc_slots WHERE study_id = :study_id
    ), noted AS (
        SELECT sum(greatest(0, CAST(span ->> 1 AS float8) - CAST(span ->> 0 AS float8))) AS seconds {_NOTED}
    )
    SELECT coalesce((SELECT sum({_LENGTH.format(until="ended", since="greatest(began, before)")}) FROM ordered), 0)
        + greatest(0, coalesce((SELECT seconds FROM vanished), 0) - coalesce((SELECT seconds FROM noted), 0))
)"""
"""SQL: seconds used."""
SPENT = f"""EXISTS (
    SELECT 1 FROM study_user_attributes AS hours WHERE hours.study_id = :study_id AND hours.key = '{_KEY}'
        AND {USED_S} >= 3600 * CAST(hours.value_json AS float8)
)"""
"""SQL: whether the study has a budget in hours, and has used it."""

_READ = text(f"""
    SELECT {USED_S} AS used, (SELECT CAST(value_json AS float8) FROM study_user_attributes AS hours
        WHERE hours.study_id = :study_id AND hours.key = '{_KEY}') AS budget
""")
_ALLOW = text("""
    INSERT INTO study_user_attributes AS old (study_id, key, value_json) VALUES (:study_id, :key, :hours)
    ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json
    WHERE CAST(old.value_json AS float8) < CAST(excluded.value_json AS float8)
""")


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Of workers."""

    used: float
    """So far."""
    budget: float | None
    """At which no more trials begin; None: no matter how many."""


def read_hours(connection: Connection, study_id: int) -> Hours:
    """What a study has used, and may use."""
    row = connection.execute(_READ, {"study_id": study_id}).one()
    return Hours(used=float(row.used) / 3600, budget=row.budget)


def allow_hours(connection: Connection, study_id: int, hours: float) -> None:
    """Give a study so many hours, if it has no budget or a smaller one."""
    connection.execute(_ALLOW, {"study_id": study_id, "key": _KEY, "hours": repr(float(hours))})
