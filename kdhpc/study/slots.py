"""The slots: one row for each trial of the budget, and who holds it.

A study of N trials has exactly N rows, so N trials are run, whatever happens to the workers. A slot is

    free -> held -> done       its trial is complete, pruned, or has diverged
     ^        |---> failed     its trial crashed, or its workers vanished, too often without any progress between
     |--------'        |       released, crashed, or its worker is known to be dead
     '-----------------'       given another chance by people (`kdhpc retry`)

A held slot whose lease has expired can be claimed like a free one, and the same trial goes on. Each claim has a lease
token of its own, and whatever a worker writes is written only while its token stands in the row. Time is the
database's, and stands still for leases while the server is down. Where the clock of its machine is set back, a lease
that was renewed before holds for its length from then on.

A trial that crashed goes on elsewhere, if it can: its machine may be broken, and would use up its attempts in a moment.

Functions here run inside a transaction of the caller's, and may run again if the end of that transaction was not seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, TextClause, text

from kdhpc.study import owner as owners
from kdhpc.study.owner import Owner
from kdhpc.study.trial_rows import ATTRIBUTE

TABLES_VERSION = "kdhpc tables 6"
"""To be raised with every change of the tables."""
TABLES = (
    """
    CREATE TABLE IF NOT EXISTS kdhpc_studies (
        study_id integer PRIMARY KEY REFERENCES studies ON DELETE CASCADE,
        uid text NOT NULL,
        definition text NOT NULL,
        train bytea NOT NULL,
        validation bytea NOT NULL,
        precision text,
        created timestamptz NOT NULL DEFAULT now(),
        draining boolean NOT NULL DEFAULT false
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS kdhpc_slots (
        study_id integer NOT NULL REFERENCES kdhpc_studies ON DELETE CASCADE,
        slot integer NOT NULL,
        state text NOT NULL DEFAULT 'free' CHECK (state IN ('free', 'held', 'done', 'failed')),
        trial_id integer UNIQUE REFERENCES trials ON DELETE CASCADE,
        attempts integer NOT NULL DEFAULT 0,
        progress bigint NOT NULL DEFAULT 0,
        lease text,
        owner text,
        owner_token text,
        claimed timestamptz,
        renewed timestamptz,
        expires timestamptz,
        worked_s double precision NOT NULL DEFAULT 0,
        reason text,
        pruned_at integer[] NOT NULL DEFAULT '{}',
        diverged_at integer,
        PRIMARY KEY (study_id, slot)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE INDEX IF NOT EXISTS kdhpc_slots_open ON kdhpc_slots (study_id, (trial_id IS NULL), slot)
        WHERE state IN ('free', 'held')
    """,
    "CREATE UNIQUE INDEX IF NOT EXISTS kdhpc_slots_held ON kdhpc_slots (lease) WHERE state = 'held'",
    f"COMMENT ON TABLE kdhpc_slots IS '{TABLES_VERSION}'",
)
"""Beside Optuna's. A finished slot keeps its lease token: a worker that asks again is told that it was its own.

``uid`` is the study's own: one of the same name that is made later has another. ``precision`` is what all its trials
are computed in; once it is there, it stays. ``attempts`` are those since the trial
last came further than ever before; ``progress`` is the highest optimiser step that it has reached. ``pruned_at`` are
the epochs at which a worker was told to prune the trial, ``diverged_at`` the one in which it diverged. ``worked_s`` is
the time that workers spent on the slot. Half of each page is left free: a lease that is renewed stays on its page then,
and no index has to be written. While a study is draining, no slot of it is given out.
"""

CLOCK_TOLERANCE_S = 60
"""A lease that was renewed so far in the future is one of a clock that was set back since."""
_CLOCK_TOLERANCE = f"interval '{CLOCK_TOLERANCE_S} seconds'"
EXPIRED = f"""(now() > greatest(expires, CASE WHEN pg_postmaster_start_time() < now() + {_CLOCK_TOLERANCE}
    THEN pg_postmaster_start_time() + (expires - renewed) END))"""
"""SQL: whether the lease of a held slot has ended. Nobody can renew one while the server is down; once it is up, each
lease has its whole length again. A server that was started in the future, by a clock that was set back since, tells
nothing of that."""
RENEWED = """renewed = now(), expires = now() + :lease_s * interval '1 second',
    progress = greatest(progress, :step)"""
"""SQL: what is set where a lease is renewed; ``attempts`` as well, by :func:`attempts_after`."""

_IS_OF_THE_FUTURE = f"renewed > now() + {_CLOCK_TOLERANCE}"

_CRASHED_HERE = "(state = 'free' AND reason IS NOT NULL AND CAST(owner AS jsonb) ->> 'host' = :host)"
# Whoever comes from elsewhere, or at least is another process, may have it at once; others wait longer each time.
_IS_LEFT_TO_OTHERS = f"""(
    now() < renewed + attempts * :lease_s * interval '1 second' AND NOT {_IS_OF_THE_FUTURE} AND EXISTS (
        SELECT 1 FROM kdhpc_slots AS busy
        WHERE busy.study_id = :study_id AND busy.state = 'held' AND NOT {EXPIRED}
            AND CASE WHEN slots.owner_token = :owner_token THEN busy.owner_token <> :owner_token
                ELSE CAST(busy.owner AS jsonb) ->> 'host' <> :host END))
"""


def _worked(until: str) -> str:
    """SQL: how long a slot was held; the clock may have been set back meanwhile."""
    return f"greatest(0, extract(epoch FROM {until} - claimed))"


def attempts_after(progress: str) -> str:
    """SQL: how many attempts count; what comes further than all before it makes this attempt the first again."""
    return f"CASE WHEN {progress} THEN 1 ELSE attempts END"


_ATTEMPTS = attempts_after(":step > progress")


def _claim(condition: str) -> TextClause:
    return text(f"""
        UPDATE kdhpc_slots SET state = 'held', lease = :lease, owner = :owner, owner_token = :owner_token,
            attempts = attempts + 1,
            worked_s = worked_s + CASE WHEN state = 'held' THEN {_worked("renewed")} ELSE 0 END,
            claimed = now(), renewed = now(), expires = now() + :lease_s * interval '1 second'
        WHERE (study_id, slot) = (
            SELECT study_id, slot FROM kdhpc_slots AS slots
            WHERE study_id = :study_id AND state IN ('free', 'held') AND (state = 'free' OR :takes_over AND {EXPIRED})
                AND NOT (SELECT draining FROM kdhpc_studies WHERE study_id = :study_id)
                AND {condition}
            ORDER BY trial_id IS NULL, slot LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING slot, trial_id, attempts, reason
    """)


_CLAIM = _claim(f"NOT {_CRASHED_HERE}")
_CLAIM_CRASHED_HERE = _claim(f"{_CRASHED_HERE} AND NOT {_IS_LEFT_TO_OTHERS}")
_OWN = text("""
    SELECT slot, trial_id, attempts, reason FROM kdhpc_slots
    WHERE study_id = :study_id AND lease = :lease AND state = 'held'
""")
# Nobody can have renewed a lease in the future: the clock was set back since. Its worker, if it lives, soon does so.
_BRING_BACK = text(f"""
    UPDATE kdhpc_slots SET claimed = least(claimed, now()), renewed = now(), expires = now() + (expires - renewed)
    WHERE study_id = :study_id AND state = 'held' AND {_IS_OF_THE_FUTURE}
""")
_RENEW = text(f"""
    UPDATE kdhpc_slots SET {RENEWED}, attempts = {_ATTEMPTS}
    WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = 'held'
    RETURNING attempts, (SELECT draining FROM kdhpc_studies WHERE study_id = :study_id) AS draining
""")
_LEAVE = text(f"""
    UPDATE kdhpc_slots SET state = :state, attempts = {_ATTEMPTS} - :forgiven, progress = greatest(progress, :step),
        reason = :reason, diverged_at = :diverged_at, worked_s = worked_s + {_worked("now()")}, renewed = now(),
        lease = CASE WHEN CAST(:state AS text) = 'free' THEN NULL ELSE lease END, expires = NULL
    WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = 'held'
""")
_WAS_LEFT = text("""
    SELECT 1 FROM kdhpc_slots WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = :state
""")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One claim on one slot."""

    study_id: int
    """Optuna's id of the study."""
    slot: int
    """The slot, from 0."""
    token: str
    """Of this claim alone."""
    duration_s: float
    """How long it holds without being renewed."""

    @property
    def key(self) -> dict[str, int | str]:
        """What finds the row while the lease stands."""
        return {"study_id": self.study_id, "slot": self.slot, "lease": self.token}


@dataclass(frozen=True, kw_only=True)
class HeldSlot:
    """A slot that was just claimed."""

    lease: Lease
    """The claim."""
    trial_id: int | None
    """Optuna's id of its trial; none before the first claim."""
    attempt: int
    """This one, from 1."""
    reason: str | None
    """Why the attempt before crashed, if it did."""


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """A lease that was just renewed."""

    attempts: int
    """Since the trial last came further than before, this one included."""
    draining: bool
    """The study's workers are asked to give their slots back."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A held slot and its owner."""

    slot: int
    """The slot, from 0."""
    number: int
    """Number of its trial."""
    owner: Owner
    """Who holds it."""
    lease_age_s: float
    """Time since the lease was renewed."""
    lost: bool
    """The lease has expired."""
    mode: str | None
    """How its steps run; none before the first."""
    data: str | None
    """Where its images are; none before its first step."""


def claim(
    connection: Connection, study_id: int, owner: Owner, *, token: str, lease_s: float, takes_over: bool
) -> HeldSlot | None:
    """Hold a slot that nobody works on, one with a trial first; none if there is none.

    A slot that this token holds already is given again. One that crashed on the owner's machine is given last; and for
    a while not at all, if others work on the study, who will ask for it when they are done.

    Args:
        connection: in a transaction.
        study_id: Optuna's id of the study.
        owner: who asks.
        token: of this claim.
        lease_s: how long the slot is held without being renewed.
        takes_over: a slot whose lease has expired may be given.
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
    rows = (connection.execute(query, values).one_or_none() for query in (_OWN, _CLAIM, _CLAIM_CRASHED_HERE))
    row = next((row for row in rows if row is not None), None)
    if row is None:
        bring_back(connection, study_id)
        return None
    lease = Lease(study_id=study_id, slot=row.slot, token=token, duration_s=lease_s)
    return HeldSlot(lease=lease, trial_id=row.trial_id, attempt=row.attempts, reason=row.reason)


def bring_back(connection: Connection, study_id: int) -> None:
    """Let leases of the future, which a clock that was set back has left behind, end one length from now."""
    connection.execute(_BRING_BACK, {"study_id": study_id})


def renew(connection: Connection, lease: Lease, *, step: int = 0) -> Renewal | None:
    """Renew a lease, and write down the optimiser step that its trial has reached; none if the lease is lost."""
    values = {**lease.key, "lease_s": lease.duration_s, "step": step}
    row = connection.execute(_RENEW, values).one_or_none()
    return None if row is None else Renewal(attempts=row.attempts, draining=row.draining)


def leave(
    connection: Connection,
    lease: Lease,
    state: str,
    *,
    step: int = 0,
    reason: str | None = None,
    diverged_at: int | None = None,
    forgive: bool = False,
) -> bool:
    """Give a held slot the state ``free``, ``done`` or ``failed``; False if the lease is lost.

    Args:
        connection: in a transaction.
        lease: of the slot.
        state: its new state.
        step: that the trial has reached.
        reason: what went wrong.
        diverged_at: the epoch at which the trial diverged.
        forgive: this attempt does not count.
    """
    values = {
        **lease.key,
        "state": state,
        "step": step,
        "reason": reason,
        "diverged_at": diverged_at,
        "forgiven": int(forgive),
    }
    if connection.execute(_LEAVE, values).rowcount == 1:
        return True
    return connection.execute(_WAS_LEFT, {**lease.key, "state": state}).one_or_none() is not None


def holder(connection: Connection, lease: Lease) -> Owner | None:
    """Who holds the slot of a lost lease now; none if nobody does."""
    found = connection.execute(
        text("SELECT owner FROM kdhpc_slots WHERE study_id = :study_id AND slot = :slot AND state = 'held'"), lease.key
    ).scalar_one_or_none()
    return owners.from_json(found) if found else None


def holdings(connection: Connection, study_id: int) -> tuple[Holding, ...]:
    """All held slots of a study, by slot."""
    rows = connection.execute(
        text(f"""
            SELECT slot, number, owner, extract(epoch FROM now() - renewed) AS age, {EXPIRED} AS lost,
                CAST(value_json AS jsonb) #>> '{{run,mode}}' AS mode,
                CAST(value_json AS jsonb) #>> '{{run,data}}' AS data
            FROM kdhpc_slots JOIN trials USING (trial_id)
                LEFT JOIN trial_user_attributes AS notes ON notes.trial_id = trials.trial_id AND notes.key = :key
            WHERE kdhpc_slots.study_id = :study_id AND kdhpc_slots.state = 'held' ORDER BY slot
        """),
        {"study_id": study_id, "key": ATTRIBUTE},
    )
    return tuple(
        Holding(
            slot=row.slot,
            number=row.number,
            owner=owners.from_json(row.owner),
            lease_age_s=float(row.age),
            lost=row.lost,
            mode=row.mode,
            data=row.data,
        )
        for row in rows
    )


def free_slots_of(connection: Connection, study_id: int, dead: Iterable[Owner]) -> int:
    """Take the slots of dead owners from them; the attempts count. Returns how many."""
    freed = connection.execute(
        text(f"""
            UPDATE kdhpc_slots SET state = 'free', lease = NULL, expires = NULL,
                worked_s = worked_s + {_worked("renewed")}
            WHERE study_id = :study_id AND state = 'held' AND owner_token = ANY(:tokens)
        """),
        {"study_id": study_id, "tokens": [owner.token for owner in dead]},
    )
    return freed.rowcount
