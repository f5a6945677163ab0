"""Who worked on a trial, when, and how each lease of it ended: read from the trial's attribute and its slot's row.

The attribute's ``owners`` names who leased the trial, its ``leases`` when those leases ended that were followed by
another one; the last one stands in the slot's row. A worker that vanished ended no lease: if another worker took the
trial over after its lease had expired, only the beginning is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Row, text

from kdhpc.study import study_rows
from kdhpc.study.slots import CRASHED, GIVEN_BACK, OF_BOTH, VANISHED
from kdhpc.study.storage import Storage
from kdhpc.study.trial_rows import ATTRIBUTE, NoteDocument

_RUNNING = "running"
_SAME_S = 1e-3
_WORKERS = text(f"""
    SELECT one ->> 'host' AS host, CAST(one ->> 'pid' AS integer) AS pid, one ->> 'job' AS job,
        array_agg(DISTINCT CASE WHEN slots.graph_key IS NULL THEN slot ELSE -1 - slot END) AS trials
    FROM kdhpc_slots AS slots
        JOIN trial_user_attributes AS notes ON notes.trial_id = slots.trial_id AND notes.key = :key
        CROSS JOIN LATERAL jsonb_array_elements(
            coalesce(CAST(value_json AS jsonb) -> 'owners', CAST('[]' AS jsonb))) AS owners(one)
    WHERE slots.study_id {OF_BOTH} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")


@dataclass(frozen=True, kw_only=True)
class TrialAttempt:
    """A lease of a trial: the time from which a worker had it to when it ended, or gave it back."""

    host: str
    """Name of the worker's machine."""
    pid: int
    """Process id there."""
    job: str | None
    """The batch job that the worker was part of."""
    attempt: int
    """Its number as it is counted: from 1 again once the trial came further, without orderly interruptions."""
    began: float | None
    """Seconds since 1970, by the database's clock; None: an earlier version of kdhpc did not write it down."""
    ended: float | None
    """As well; of a worker that vanished the last sign of life; None: it runs, or that is not known."""
    how: str | None
    """``running``, ``given back``, ``crashed``, ``vanished``, or the state in which the trial ended; None: not
    known."""
    reason: str | None
    """Why it crashed, failed or diverged."""


@dataclass(frozen=True, kw_only=True)
class _End:
    ended: float | None = None
    how: str | None = None
    reason: str | None = None


def read_attempts(row: Row[tuple[object, ...]], note: NoteDocument, state: str) -> tuple[TrialAttempt, ...]:
    """The attempts at a trial, in order.

    Args:
        row: of its slot: slot_state, owner_token, claimed, renewed, lost, reason.
        note: its attribute.
        state: of the trial.
    """
    owners, found = note.get("owners", []), []
    for index, owner in enumerate(owners):
        began = _number(owner.get("began"))
        token = owner.get("token")
        end = _ended_before(note, token, began)
        is_last = index == len(owners) - 1
        # Earlier versions wrote no token: of those, only the last owner's lease is known.
        if end is None and is_last and row.owner_token is not None and token in (None, row.owner_token):
            began = float(row.claimed) if began is None and row.slot_state != "free" else began
            end = _last_end(row, state)
        if end is None:
            end = _End(how=None if token is None else VANISHED)
        found.append(_attempt(owner, began, end))
    return tuple(found)


def _attempt(owner: Mapping[str, object], began: float | None, end: _End) -> TrialAttempt:
    job = owner.get("job")
    return TrialAttempt(
        host=str(owner.get("host")),
        pid=int(str(owner.get("pid"))),
        job=None if job is None else str(job),
        attempt=int(str(owner.get("attempt"))),
        began=began,
        ended=end.ended,
        how=end.how,
        reason=end.reason,
    )


def _ended_before(note: NoteDocument, token: object, began: float | None) -> _End | None:
    """How a lease ended that was followed by another; None: it is not among those that were written down."""
    for lease in note.get("leases", []):
        since, until, owner_token, *rest = lease
        if began is None or owner_token != token or abs(float(str(since)) - began) > _SAME_S:
            continue
        how, reason = (*rest, None, None)[:2]
        return _End(
            ended=_number(until),
            how=None if how is None else str(how),
            reason=None if reason is None else str(reason),
        )
    return None


def _last_end(row: Row[tuple[object, ...]], state: str) -> _End:
    """How the lease ended that is the slot's last."""
    if row.slot_state == "held":
        return _End(ended=float(row.renewed), how=VANISHED) if row.lost else _End(how=_RUNNING)
    if row.slot_state == "free":  # As an earlier version left it.
        return _End(ended=float(row.renewed), how=CRASHED if row.reason else GIVEN_BACK, reason=row.reason)
    return _End(ended=float(row.renewed), how=state, reason=row.reason)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


@dataclass(frozen=True, kw_only=True)
class KnownWorker:
    """A process that has trained trials of a study."""

    host: str
    """Name of its machine."""
    pid: int
    """Process id there."""
    job: str | None
    """The batch job that it was part of."""
    trials: tuple[int, ...]
    """Numbers of the trials that it leased, given ones first; those of which it was one of the latest 20 owners."""


def read_workers(storage: Storage, name: str) -> tuple[KnownWorker, ...]:
    """All workers that a study's trials remember.

    Raises:
        UnknownStudyError: the study does not exist.
    """

    def read(connection: Connection) -> tuple[KnownWorker, ...]:
        study_id = study_rows.find_id(connection, name)
        rows = connection.execute(_WORKERS, {"study_id": study_id, "key": ATTRIBUTE})
        return tuple(KnownWorker(host=row.host, pid=row.pid, job=row.job, trials=tuple(row.trials)) for row in rows)

    return storage.read(read)
