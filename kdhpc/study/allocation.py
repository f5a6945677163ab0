"""Claiming a slot and making its trial, in one transaction: no trial is ever without a slot."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from kdhpc.graph.space import SearchSpace, graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import median_rule as reporting
from kdhpc.study import slots, trial_rows
from kdhpc.study.definition import StudyDefinition
from kdhpc.study.owner import Owner
from kdhpc.study.slots import HeldSlot, Lease
from kdhpc.study.trial_rows import TrialState

_OWNERS_KEPT = 20


@dataclass(frozen=True, kw_only=True)
class HeldTrial:
    """A claimed slot with its trial."""

    lease: Lease
    """The claim."""
    trial_id: int
    """Optuna's id of the trial."""
    number: int
    """Its number in the study: that of the slot."""
    attempt: int
    """This one, from 1."""
    parameters: dict[str, str]
    """The graph; empty where it is still to be chosen."""
    reported: tuple[int, ...]
    """Epochs that are in the database already."""


def claim_trial(
    connection: Connection,
    study_id: int,
    definition: StudyDefinition,
    owner: Owner,
    *,
    token: str,
    lease_s: float,
    takes_over: bool,
) -> HeldTrial | None:
    """Hold a slot and the trial in it, made now if this is the slot's first claim; none if there is nothing to claim.

    Slots whose attempts are used up (their workers vanished without a word) are failed on the way.
    """
    while held := slots.claim(connection, study_id, owner, token=token, lease_s=lease_s, takes_over=takes_over):
        described = {"host": owner.host, "pid": owner.pid, "job": owner.job, "attempt": held.attempt}
        if held.trial_id is None:
            return _begin(connection, definition, held, described)
        if held.attempt <= definition.max_attempts:
            return _resume(connection, held, held.trial_id, described)
        _give_up(connection, held, held.trial_id)
    return None


def write_graph(
    connection: Connection, trial_id: int, space: SearchSpace, graph: GraphSpec, note: Mapping[str, object]
) -> dict[str, str]:
    """Write down what a trial tries, and more about it; gives the graph as parameters."""
    parameters = space.to_parameters(graph)
    trial_rows.write_parameters(connection, trial_id, space, parameters)
    trial_rows.note(connection, trial_id, {**note, "graph": graph_key(graph)})
    return parameters


def fail(connection: Connection, lease: Lease, trial_id: int, reason: str, *, forgive: bool = False) -> bool:
    """Fail a held slot and its trial; False if the lease is lost."""
    if not slots.leave(connection, lease, "failed", reason=reason, forgive=forgive):
        return False
    trial_rows.finish(connection, trial_id, TrialState.FAILED)
    reporting.forget(connection, trial_id)
    trial_rows.note(connection, trial_id, {"reason": reason})
    return True


def _begin(
    connection: Connection, definition: StudyDefinition, held: HeldSlot, described: Mapping[str, object]
) -> HeldTrial:
    note: dict[str, object] = {"slot": held.lease.slot, "owners": [described]}
    parameters: dict[str, str] = {}
    if definition.sampler == "random":
        graph = definition.space.graph(definition.seed, held.lease.slot)
        parameters = definition.space.to_parameters(graph)
        note["graph"] = graph_key(graph)
    trial_id = trial_rows.register(
        connection, held.lease.study_id, held.lease.slot, space=definition.space, parameters=parameters, note=note
    )
    return HeldTrial(
        lease=held.lease,
        trial_id=trial_id,
        number=held.lease.slot,
        attempt=held.attempt,
        parameters=parameters,
        reported=(),
    )


def _resume(connection: Connection, held: HeldSlot, trial_id: int, described: Mapping[str, object]) -> HeldTrial:
    owners = trial_rows.read_note(connection, trial_id).get("owners", [])
    if described not in owners:
        trial_rows.note(connection, trial_id, {"owners": [*owners, described][-_OWNERS_KEPT:]})
    return HeldTrial(
        lease=held.lease,
        trial_id=trial_id,
        number=held.lease.slot,
        attempt=held.attempt,
        parameters=trial_rows.read_parameters(connection, trial_id),
        reported=trial_rows.reported_epochs(connection, trial_id),
    )


def _give_up(connection: Connection, held: HeldSlot, trial_id: int) -> None:
    before = f"; an attempt before: {held.reason}" if held.reason else ""
    reason = f"given up after {held.attempt - 1} attempts, the last worker vanished without a word{before}"
    # The claim that finds this out is none of the attempts.
    fail(connection, held.lease, trial_id, reason, forgive=True)
