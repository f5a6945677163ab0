"""Trials in Optuna's own tables, written by SQL, so that a trial and its slot change in one transaction.

Optuna's calls are a transaction each: a worker killed between two of them leaves a running trial that is nobody's. All
that kdhpc knows of Optuna's tables is here, in ``median_rule`` and in ``status``; ``optuna_tables`` checks their
version.
"""

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import TypedDict

from sqlalchemy import Connection, text

from kdhpc.graph.space import SearchSpace

SCHEMA_VERSION = 12
"""Optuna's ``version_info.schema_version`` that these statements are written for."""
ATTRIBUTE = "kdhpc"
"""The one user attribute of a trial: its slot, the key of its graph, its owners, how it runs."""


class NoteDocument(TypedDict, total=False):
    """The attribute's fields."""

    slot: int
    graph: str
    repetition: int
    owners: list[Mapping[str, object]]
    reason: str
    diverged: Mapping[str, object]
    run: Mapping[str, str]
    leases: list[list[float | str | None]]


class TrialState(str, Enum):
    """Optuna's names of a trial's states, as far as kdhpc uses them."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAIL"


_OF_A_TRIAL = (
    *("trial_heartbeats", "trial_intermediate_values", "trial_params"),
    *("trial_system_attributes", "trial_user_attributes", "trial_values"),
)
_OF_A_STUDY = ("trials", "study_directions", "study_system_attributes", "study_user_attributes", "studies")
_NOTE = text("""
    INSERT INTO trial_user_attributes AS old (trial_id, key, value_json) VALUES (:trial_id, :key, :fields)
    ON CONFLICT (trial_id, key) DO UPDATE
    SET value_json = CAST(CAST(old.value_json AS jsonb) || CAST(excluded.value_json AS jsonb) AS text)
""")
# A trial has its slot's number: a counter's row would make workers wait for each other. Optuna finds trials by number,
# and needs no number before the next one to be there: a slot that an allocation has passed over is begun later.
_REGISTER = text("""
    WITH trial AS (
        INSERT INTO trials (number, study_id, state, datetime_start)
        VALUES (:slot, :study_id, 'RUNNING', now() AT TIME ZONE 'utc') RETURNING trial_id
    ), assigned AS (
        UPDATE kdhpc_slots SET trial_id = trial.trial_id FROM trial
        WHERE kdhpc_slots.study_id = :study_id AND slot = :slot
    ), written AS (
        INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
        SELECT trial_id, chosen.* FROM trial,
            unnest(CAST(:names AS text[]), CAST(:values AS float8[]), CAST(:distributions AS text[])) AS chosen
    ), noted AS (
        INSERT INTO trial_user_attributes (trial_id, key, value_json) SELECT trial_id, :key, :note FROM trial
    )
    SELECT trial_id FROM trial
""")
_WRITE_PARAMETER = text("""
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT :trial_id, * FROM unnest(CAST(:names AS text[]), CAST(:values AS float8[]), CAST(:distributions AS text[]))
    ON CONFLICT (trial_id, param_name) DO NOTHING
""")
_FINISH = """
    UPDATE trials SET state = CAST(:state AS trialstate), datetime_complete = now() AT TIME ZONE 'utc'
    WHERE trial_id = :trial_id AND state = 'RUNNING'
"""
_FAIL = text(_FINISH)
_COMPLETE = text(f"""
    WITH finished AS ({_FINISH})
    INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (:trial_id, 0, :value, 'FINITE')
    ON CONFLICT (trial_id, objective) DO NOTHING
""")
# What `study.optimize` does with a pruned trial: its last report is its value.
_PRUNE = text(f"""
    WITH finished AS ({_FINISH})
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT trial_id, 0, intermediate_value, 'FINITE' FROM trial_intermediate_values
    WHERE trial_id = :trial_id ORDER BY step DESC LIMIT 1
    ON CONFLICT (trial_id, objective) DO NOTHING
""")


_REOPEN = (
    text("""
        UPDATE trials SET state = 'RUNNING', datetime_complete = NULL
        WHERE trial_id = ANY(:trial_ids) AND state = 'FAIL'
    """),
    text("""
        UPDATE trial_user_attributes SET value_json = CAST(CAST(value_json AS jsonb) - 'reason' AS text)
        WHERE trial_id = ANY(:trial_ids) AND key = :key
    """),
)


def register(
    connection: Connection,
    study_id: int,
    slot: int,
    *,
    space: SearchSpace,
    parameters: Mapping[str, str],
    note: Mapping[str, object],
) -> int:
    """Make a running trial with a slot's number; gives its id.

    Args:
        connection: in the transaction that leases the slot.
        study_id: Optuna's id of the study.
        slot: the leased one.
        space: what the parameters are of.
        parameters: of the graph; None: it is still to be chosen.
        note: fields of its attribute.
    """
    registered = connection.execute(
        _REGISTER,
        {
            "study_id": study_id,
            "slot": slot,
            "key": ATTRIBUTE,
            "note": json.dumps(note),
            **_parameter_columns(space, parameters),
        },
    )
    return int(registered.scalar_one())


def write_parameters(connection: Connection, trial_id: int, space: SearchSpace, parameters: Mapping[str, str]) -> None:
    """Write a trial's graph as categorical parameters, all at once."""
    connection.execute(_WRITE_PARAMETER, {"trial_id": trial_id, **_parameter_columns(space, parameters)})


def _parameter_columns(space: SearchSpace, parameters: Mapping[str, str]) -> dict[str, list[str] | list[float]]:
    chosen = [parameter for parameter in space.parameters() if parameter.name in parameters]
    return {
        "names": [parameter.name for parameter in chosen],
        "values": [float(parameter.choices.index(parameters[parameter.name])) for parameter in chosen],
        "distributions": [distribution(parameter.choices) for parameter in chosen],
    }


@lru_cache(maxsize=64)
def distribution(choices: tuple[str, ...]) -> str:
    """Optuna's JSON of a categorical distribution; a parameter's value is the index of its choice."""
    return json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": choices}})


def read_parameters(connection: Connection, trial_id: int) -> dict[str, str]:
    """A trial's parameters; empty if none are written yet."""
    rows = connection.execute(
        text("SELECT param_name, param_value, distribution_json FROM trial_params WHERE trial_id = :trial_id"),
        {"trial_id": trial_id},
    )
    return {row.param_name: choice(row.distribution_json, row.param_value) for row in rows}


def choice(distribution_json: str, value: float) -> str:
    """The choice that a stored value means."""
    return _choices(distribution_json)[int(value)]


@lru_cache(maxsize=1024)
def _choices(distribution_json: str) -> tuple[str, ...]:
    return tuple(map(str, json.loads(distribution_json)["attributes"]["choices"]))


def reported_epochs(connection: Connection, trial_id: int) -> tuple[int, ...]:
    """Epochs at which a trial has reported, rising."""
    query = text("SELECT step FROM trial_intermediate_values WHERE trial_id = :trial_id ORDER BY step")
    return tuple(connection.execute(query, {"trial_id": trial_id}).scalars())


def finish(connection: Connection, trial_id: int, state: TrialState, value: float | None = None) -> None:
    """Give a running trial its end; a pruned one gets its last report as its value."""
    query = {TrialState.COMPLETE: _COMPLETE, TrialState.PRUNED: _PRUNE, TrialState.FAILED: _FAIL}[state]
    values = {"value": value} if state is TrialState.COMPLETE else {}
    connection.execute(query, {"trial_id": trial_id, "state": state.value, **values})


def reopen(connection: Connection, trial_ids: Sequence[int]) -> None:
    """Let trials that failed run again; their slots are free."""
    for query in _REOPEN:
        connection.execute(query, {"trial_ids": list(trial_ids), "key": ATTRIBUTE})


def note(connection: Connection, trial_id: int, fields: Mapping[str, object]) -> None:
    """Write fields of a trial's attribute; others stay."""
    connection.execute(_NOTE, {"trial_id": trial_id, "key": ATTRIBUTE, "fields": json.dumps(fields)})


def read_note(connection: Connection, trial_id: int) -> NoteDocument:
    """A trial's attribute."""
    query = text("SELECT value_json FROM trial_user_attributes WHERE trial_id = :trial_id AND key = :key")
    stored = connection.execute(query, {"trial_id": trial_id, "key": ATTRIBUTE}).scalar_one_or_none()
    document: NoteDocument = json.loads(stored) if stored else {}
    return document


def delete_study(connection: Connection, study_id: int) -> None:
    """Delete Optuna's rows of a study: all trials with what belongs to them, and the study."""
    values = {"study_id": study_id}
    for table in _OF_A_TRIAL:
        query = f"DELETE FROM {table} USING trials WHERE {table}.trial_id = trials.trial_id AND study_id = :study_id"
        connection.execute(text(query), values)
    for table in _OF_A_STUDY:
        connection.execute(text(f"DELETE FROM {table} WHERE study_id = :study_id"), values)
