"""All trials of a study as Optuna's ``FrozenTrial``, read by a few statements.

Optuna's own storage builds an object for each row of each table. For 6,000 trials with 45 parameters that takes many
times as long.
"""

import json
from collections.abc import Collection
from datetime import datetime, timezone
from functools import lru_cache

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, text

_VALUE = """CASE CAST({0}_type AS text) WHEN 'FINITE' THEN {0} WHEN 'INF_POS' THEN CAST('Infinity' AS float8)
        WHEN 'INF_NEG' THEN CAST('-Infinity' AS float8) ELSE CAST('NaN' AS float8) END"""
_TRIALS = text(f"""
    SELECT trial_id, number, CAST(state AS text) AS state, datetime_start, datetime_complete,
        (SELECT array_agg({_VALUE.format("value")} ORDER BY objective)
            FROM trial_values WHERE trial_values.trial_id = trials.trial_id) AS objectives
    FROM trials WHERE study_id = :study_id AND NOT trial_id = ANY(:known) ORDER BY number, trial_id
""")
# Lists, so that the server sends a row for each trial.
_PARAMETERS = text("""
    SELECT trial_id, array_agg(param_name ORDER BY param_id) AS names,
        array_agg(param_value ORDER BY param_id) AS found,
        array_agg(distribution_json ORDER BY param_id) AS distributions
    FROM trial_params WHERE trial_id = ANY(:trial_ids) GROUP BY trial_id
""")
_REPORTS = text(f"""
    SELECT trial_id, array_agg(step ORDER BY step) AS names,
        array_agg({_VALUE.format("intermediate_value")} ORDER BY step) AS found
    FROM trial_intermediate_values WHERE trial_id = ANY(:trial_ids) GROUP BY trial_id
""")
_USER_ATTRIBUTES, _SYSTEM_ATTRIBUTES = (
    text(f"""
        SELECT trial_id, array_agg(key ORDER BY key) AS names, array_agg(value_json ORDER BY key) AS found
        FROM {table} WHERE trial_id = ANY(:trial_ids) GROUP BY trial_id
    """)
    for table in ("trial_user_attributes", "trial_system_attributes")
)


def read_trials(connection: Connection, study_id: int, known: Collection[int] = ()) -> list[FrozenTrial]:
    """The trials of a study, by number.

    Args:
        connection: In a transaction, all of whose statements see the same point in time.
        study_id: Optuna's id of the study.
        known: Optuna's ids of trials to leave out.
    """
    rows = connection.execute(_TRIALS, {"study_id": study_id, "known": list(known)}).all()
    wanted = {"trial_ids": [row.trial_id for row in rows]}
    distributions: dict[int, dict[str, BaseDistribution]] = {}
    parameters: dict[int, dict[str, object]] = {}
    for row in connection.execute(_PARAMETERS, wanted):
        kinds = [_distribution(document) for document in row.distributions]
        distributions[row.trial_id] = dict(zip(row.names, kinds, strict=True))
        chosen = (kind.to_external_repr(value) for kind, value in zip(kinds, row.found, strict=True))
        parameters[row.trial_id] = dict(zip(row.names, chosen, strict=True))
    reports = {
        row.trial_id: dict(zip(row.names, row.found, strict=True)) for row in connection.execute(_REPORTS, wanted)
    }
    user, system = (
        {
            row.trial_id: dict(zip(row.names, map(json.loads, row.found), strict=True))
            for row in connection.execute(statement, wanted)
        }
        for statement in (_USER_ATTRIBUTES, _SYSTEM_ATTRIBUTES)
    )
    return [
        FrozenTrial(
            number=row.number,
            state=TrialState[row.state],
            value=None,
            values=row.objectives,
            datetime_start=_local(row.datetime_start),
            datetime_complete=_local(row.datetime_complete),
            params=parameters.get(row.trial_id, {}),
            distributions=distributions.get(row.trial_id, {}),
            user_attrs=user.get(row.trial_id, {}),
            system_attrs=system.get(row.trial_id, {}),
            intermediate_values=reports.get(row.trial_id, {}),
            trial_id=row.trial_id,
        )
        for row in rows
    ]


@lru_cache(maxsize=1024)
def _distribution(document: str) -> BaseDistribution:
    """Nearly all trials of a study have the same: each is one object."""
    return json_to_distribution(document)


def _local(moment: datetime | None) -> datetime | None:
    """As Optuna shows it: the tables have it in UTC, without saying so."""
    return None if moment is None else moment.replace(tzinfo=timezone.utc).astimezone().replace(tzinfo=None)
