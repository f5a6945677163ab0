"""Leasing a slot and making its trial, in one transaction: no trial is ever without a slot."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TypeAlias

from sqlalchemy import Connection, Row, TextClause, text

from kdhpc.graph.space import SearchSpace, graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import given, median_rule, slots, trial_rows
from kdhpc.study import owner as owners
from kdhpc.study.adaptive import ADAPTIVE, choose_graph
from kdhpc.study.definition import StudyDefinition
from kdhpc.study.hours import SPENT
from kdhpc.study.owner import Owner
from kdhpc.study.slots import EXPIRED, OF_BOTH, Lease
from kdhpc.study.trial_rows import TrialState
from kdhpc.words import counted

SlotRow: TypeAlias = Row[tuple[int, int, int | None, int, str | None, str | None, int | None, Decimal]]
"""Of a slot that was leased: study_id, slot, trial_id, attempts, reason, graph_key, repetition, claimed."""

_OWNERS_KEPT = 20

_CRASHED_HERE = "(state = 'free' AND reason IS NOT NULL AND CAST(owner AS jsonb) ->> 'host' = :host)"
# Another machine, or at least another process, may have it at once. The one that crashed waits longer each time.
_IS_LEFT_TO_OTHERS = f"""(
    now() < renewed + attempts * :lease_s * interval '1 second' AND NOT {slots.IS_OF_THE_FUTURE} AND EXISTS (
        SELECT 1 FROM kdhpc_slots AS busy
        WHERE busy.study_id {OF_BOTH} AND busy.state = 'held' AND NOT {EXPIRED}
            AND CASE WHEN slots.owner_token = :owner_token THEN busy.owner_token <> :owner_token
                ELSE CAST(busy.owner AS jsonb) ->> 'host' <> :host END))
"""


def _allocate(condition: str) -> TextClause:
    return text(f"""
        UPDATE kdhpc_slots SET state = 'held', lease = :lease, owner = :owner, owner_token = :owner_token,
            attempts = attempts + 1,
            worked_s = worked_s + CASE WHEN state = 'held' THEN {slots.worked("renewed")} ELSE 0 END,
            claimed = now(), renewed = now(), expires = now() + :lease_s * interval '1 second', images_per_s = NULL
        WHERE (study_id, slot) = (
            SELECT study_id, slot FROM kdhpc_slots AS slots
            WHERE study_id = :own AND state IN ('free', 'held') AND (state = 'free' OR :takes_over AND {EXPIRED})
                AND NOT (SELECT draining FROM kdhpc_studies WHERE study_id = :study_id)
                AND (trial_id IS NOT NULL OR :own <> :study_id OR NOT {SPENT})
                AND {condition}
            ORDER BY trial_id IS NULL, slot LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING study_id, slot, trial_id, attempts, reason, graph_key, repetition,
            extract(epoch FROM claimed) AS claimed
    """)


_ALLOCATE = _allocate(f"NOT {_CRASHED_HERE}")
_ALLOCATE_CRASHED_HERE = _allocate(f"{_CRASHED_HERE} AND NOT {_IS_LEFT_TO_OTHERS}")
_OWN = text(f"""
    SELECT (SELECT study_id FROM kdhpc_studies WHERE given_of = :study_id) AS companion,
        slots.study_id, slot, trial_id, attempts, reason, graph_key, repetition,
        extract(epoch FROM claimed) AS claimed
    FROM kdhpc_studies LEFT JOIN kdhpc_slots AS slots
        ON slots.study_id {OF_BOTH} AND lease = :lease AND slots.state = 'held'
    WHERE kdhpc_studies.study_id = :study_id
""")


def allocate(
    connection: Connection,
    study_id: int,
    definition: StudyDefinition,
    owner: Owner,
    *,
    token: str,
    lease_s: float,
    takes_over: bool,
) -> Lease | None:
    """Lease a free slot and its trial. The first lease of a slot makes the trial.

    Given trials come before those of the budget, so that there is something to compare with early: they are few. Slots
    that have a trial come before those that have none. If this token holds a slot already, as when a call is repeated,
    that slot is returned. A trial that crashed on the owner's machine comes last. If others work on
    the study, it is even kept for them for a while. Slots whose workers vanished, and whose attempts are used up, are
    failed on the way. Once the study's hours are used, no trial of the budget begins.

    Args:
        connection: in a transaction.
        study_id: Optuna's id of the study.
        definition: what the study was made with.
        owner: who asks.
        token: of this lease.
        lease_s: how long the slot is held without being renewed.
        takes_over: a slot whose lease has expired may be given.

    Returns:
        None: there is no such slot.
    """
    values = {
        "study_id": study_id,
        "lease": token,
        "lease_s": lease_s,
        "owner": owners.to_json(owner),
        "owner_token": owner.token,
        "host": owner.host,
        "takes_over": takes_over,
    }
    while (row := _hold(connection, study_id, values)) is not None:
        described: dict[str, object] = {
            "host": owner.host,
            "pid": owner.pid,
            "job": owner.job,
            "attempt": row.attempts,
            "token": owner.token,
            "began": float(row.claimed),
        }
        trial_id = row.trial_id
        parameters: dict[str, str] = {}
        if trial_id is None:
            trial_id, parameters = _begin(connection, row, definition, described)
        lease = Lease(
            study_id=row.study_id,
            slot=row.slot,
            token=token,
            duration_s=lease_s,
            trial_id=trial_id,
            attempt=row.attempts,
            parameters=parameters,
            given=given.given_trial(connection, row.study_id, row.graph_key, row.repetition) if row.graph_key else None,
        )
        if row.trial_id is None:
            return lease
        if row.attempts <= definition.max_attempts:
            return _resume(connection, lease, described)
        _give_up(connection, lease, row.reason)
    return None


def write_graph(
    connection: Connection, trial_id: int, space: SearchSpace, graph: GraphSpec, note: Mapping[str, object]
) -> dict[str, str]:
    """Store a trial's graph and its note; returns the graph as Optuna's parameters."""
    parameters = space.to_parameters(graph)
    trial_rows.write_parameters(connection, trial_id, space, parameters)
    trial_rows.note(connection, trial_id, {**note, "graph": graph_key(graph)})
    return parameters


def fail(connection: Connection, lease: Lease, reason: str, *, forgive: bool = False) -> bool:
    """Mark a held slot and its trial as failed; False if the lease is lost."""
    if not slots.leave(connection, lease, "failed", reason=reason, forgive=forgive):
        return False
    trial_rows.finish(connection, lease.trial_id, TrialState.FAILED)
    median_rule.forget(connection, lease.trial_id)
    trial_rows.note(connection, lease.trial_id, {"reason": reason})
    return True


def _hold(connection: Connection, study_id: int, values: Mapping[str, object]) -> SlotRow | None:
    """Hold a slot and return its row; None: no slot is available."""
    known = connection.execute(_OWN, values).one_or_none()
    if known is not None and known.slot is not None:
        return known
    companion = None if known is None else known.companion
    for query in (_ALLOCATE, _ALLOCATE_CRASHED_HERE):
        for own in (study_id,) if companion is None else (companion, study_id):
            row = connection.execute(query, {**values, "own": own}).one_or_none()
            if row is not None:
                return row
    slots.bring_back(connection, study_id)
    return None


def _begin(
    connection: Connection, row: SlotRow, definition: StudyDefinition, described: Mapping[str, object]
) -> tuple[int, dict[str, str]]:
    """Make the trial of a slot: Optuna's id of it, and its parameters, which are empty where TPE chooses them later.

    The parameters of a given graph are empty, too: it may have what the study's space has not.
    """
    study_id, slot = row.study_id, row.slot
    note: dict[str, object] = {"slot": slot, "owners": [described]}
    parameters: dict[str, str] = {}
    if row.graph_key is not None:
        note |= {"graph": row.graph_key, "repetition": row.repetition}
    elif definition.sampler == "random":
        graph = definition.space.graph(definition.seed, slot)
        parameters = definition.space.to_parameters(graph)
        note["graph"] = graph_key(graph)
    elif definition.sampler in ADAPTIVE:
        graph = choose_graph(connection, study_id, definition, slot)
        parameters = definition.space.to_parameters(graph)
        note["graph"] = graph_key(graph)
    trial_id = trial_rows.register(connection, study_id, slot, space=definition.space, parameters=parameters, note=note)
    return trial_id, parameters


def _resume(connection: Connection, lease: Lease, described: Mapping[str, object]) -> Lease:
    """The lease with what its trial has done before."""
    before = trial_rows.read_note(connection, lease.trial_id).get("owners", [])
    if described not in before:
        trial_rows.note(connection, lease.trial_id, {"owners": [*before, described][-_OWNERS_KEPT:]})
    return replace(
        lease,
        parameters=trial_rows.read_parameters(connection, lease.trial_id),
        reported=trial_rows.reported_epochs(connection, lease.trial_id),
    )


def _give_up(connection: Connection, lease: Lease, crash: str | None) -> None:
    before = f"; an attempt before: {crash}" if crash else ""
    reason = f"given up after {counted(lease.attempt - 1, 'attempt')}, {slots.WITHOUT_A_WORD}{before}"
    # The lease that finds this out does not count as an attempt.
    fail(connection, lease, reason, forgive=True)
