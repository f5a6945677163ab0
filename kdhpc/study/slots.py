"""The slots: one row for each trial of the budget, and who holds it.

A study of N trials has exactly N rows, so N trials are run, whatever happens to the workers. A slot is

    free -> held -> done       its trial is complete, pruned, or has diverged
     ^        |---> failed     its trial crashed, or its workers vanished, too often without any progress between
     |--------'        |       released, crashed, or its worker is known to be dead
     '-----------------'       given another chance by people (`kdhpc retry`)

A held slot whose lease has expired can be leased again like a free one, and the same trial goes on. Each lease has a
token of its own, and whatever a worker writes is written only while its token stands in the row. Time is the
database's, and stands still for leases while the server is down. Where the clock of its machine is set back, a lease
that was renewed before holds for its length from then on.

A trial that crashed goes on elsewhere, if it can: its machine may be broken, and would use up its attempts in a moment.

A study's given trials (baselines, graphs that were enqueued, confirmations) are slots as well, of a companion study, so
that no number of the budget includes them: see ``given``.

``allocation`` gives slots out. Functions here run inside a transaction of the caller's, and may run again if the end of
that transaction was not seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from kdhpc.graph.spec import GraphSpec
from kdhpc.study import owner as owners
from kdhpc.study.numbers import given_number
from kdhpc.study.owner import Owner
from kdhpc.study.pace import Pace
from kdhpc.study.trial_rows import ATTRIBUTE

TABLES_VERSION = "kdhpc tables 8"
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
        draining boolean NOT NULL DEFAULT false,
        given_of integer UNIQUE REFERENCES kdhpc_studies ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS kdhpc_graphs (
        study_id integer NOT NULL REFERENCES kdhpc_studies ON DELETE CASCADE,
        graph_key text NOT NULL,
        graph text NOT NULL,
        name text,
        is_candidate boolean NOT NULL DEFAULT false,
        PRIMARY KEY (study_id, graph_key)
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
        graph_key text,
        repetition integer,
        epoch integer,
        images_per_s double precision,
        PRIMARY KEY (study_id, slot)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE INDEX IF NOT EXISTS kdhpc_slots_open ON kdhpc_slots (study_id, (trial_id IS NULL), slot)
        WHERE state IN ('free', 'held')
    """,
    "CREATE UNIQUE INDEX IF NOT EXISTS kdhpc_slots_held ON kdhpc_slots (lease) WHERE state = 'held'",
    """
    CREATE UNIQUE INDEX IF NOT EXISTS kdhpc_slots_given ON kdhpc_slots (study_id, graph_key, repetition)
        WHERE graph_key IS NOT NULL
    """,
    f"COMMENT ON TABLE kdhpc_slots IS '{TABLES_VERSION}'",
)
"""Beside Optuna's. A finished slot keeps its lease token: a worker that asks again is told that it was its own.

``uid`` is the study's own: one of the same name that is made later has another. ``precision`` is what all its trials
are computed in; once it is there, it stays. ``attempts`` are those since the trial
last came further than ever before; ``progress`` is the highest optimiser step that it has reached. ``pruned_at`` are
the epochs at which a worker was told to prune the trial, ``diverged_at`` the one in which it diverged. ``worked_s`` is
the time that workers spent on the slot. Half of each page is left free: a lease that is renewed stays on its page then,
and no index has to be written. While a study is draining, no slot of it is given out.

``given_of`` makes a study the companion of another one, whose given trials it has; ``kdhpc_graphs`` has their graphs,
``graph_key`` and ``repetition`` say which of them a slot trains, and with which seed. ``epoch`` is the one that its
training was in when the lease was last renewed, ``images_per_s`` how fast it was then: for people alone.
"""
WITHOUT_A_WORD = "the last worker vanished without a word"
"""Why a trial failed whose workers told no reason."""
OF_BOTH = "IN (SELECT study_id FROM kdhpc_studies WHERE study_id = :study_id OR given_of = :study_id)"
"""SQL: of a study, or of the companion that has its given trials."""

GIVEN_BACK, CRASHED, VANISHED, FAILED = "given back", "crashed", "vanished", "failed"
"""How a lease ended, as people are told."""

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

IS_OF_THE_FUTURE = f"renewed > now() + {_CLOCK_TOLERANCE}"
"""SQL: whether a lease was renewed in the future, by a clock that was set back since."""


def worked(until: str) -> str:
    """SQL: how long a slot was held; the clock may have been set back meanwhile."""
    return f"greatest(0, extract(epoch FROM {until} - claimed))"


def attempts_after(progress: str) -> str:
    """SQL: how many attempts count; what comes further than all before it makes this attempt the first again."""
    return f"CASE WHEN {progress} THEN 1 ELSE attempts END"


_ATTEMPTS = attempts_after(":step > progress")


# Nobody can have renewed a lease in the future: the clock was set back since. Its worker, if it lives, soon does so.
_BRING_BACK = text(f"""
    UPDATE kdhpc_slots SET claimed = least(claimed, now()), renewed = now(), expires = now() + (expires - renewed)
    WHERE study_id {OF_BOTH} AND state = 'held' AND {IS_OF_THE_FUTURE}
""")
_RENEW = text(f"""
    UPDATE kdhpc_slots SET {RENEWED}, attempts = {_ATTEMPTS}, epoch = coalesce(CAST(:epoch AS integer), epoch),
        images_per_s = coalesce(CAST(:images_per_s AS float8), images_per_s)
    WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = 'held'
    RETURNING attempts, (SELECT draining FROM kdhpc_studies WHERE study_id = :study_id) AS draining
""")
_LEAVE = text(f"""
    UPDATE kdhpc_slots SET state = :state, attempts = {_ATTEMPTS} - :forgiven, progress = greatest(progress, :step),
        reason = :reason, diverged_at = :diverged_at, worked_s = worked_s + {worked("now()")}, renewed = now(),
        lease = CASE WHEN CAST(:state AS text) = 'free' THEN NULL ELSE lease END, expires = NULL
    WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = 'held'
""")
_REMEMBER = text("""
    UPDATE trial_user_attributes AS notes SET value_json = CAST(jsonb_set(
        CAST(notes.value_json AS jsonb), '{leases}',
        coalesce(CAST(notes.value_json AS jsonb) -> 'leases', CAST('[]' AS jsonb)) || jsonb_build_array(
            jsonb_build_array(extract(epoch FROM claimed), extract(epoch FROM renewed), owner_token,
                CAST(:how AS text), coalesce(CAST(:reason AS text), CAST(notes.value_json AS jsonb) ->> 'reason')))
        ) AS text)
    FROM kdhpc_slots AS slots
    WHERE slots.study_id = :study_id AND slot = ANY(:slots) AND claimed IS NOT NULL
        AND notes.trial_id = slots.trial_id AND notes.key = :key
""")
_WAS_LEFT = text("""
    SELECT 1 FROM kdhpc_slots WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = :state
""")


@dataclass(frozen=True, kw_only=True)
class GivenTrial:
    """A training of a given graph."""

    graph: GraphSpec
    """The graph, in canonical form."""
    repetition: int
    """Which of its trainings it is, from 1; each has another seed."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What was allocated: a slot, for a time, with the trial in it."""

    study_id: int
    """Optuna's id of the study, or of its companion."""
    slot: int
    """The slot, from 0."""
    token: str
    """Of this lease alone."""
    duration_s: float
    """How long it holds without being renewed."""
    trial_id: int
    """Optuna's id of the trial."""
    attempt: int
    """How often the slot was leased since its trial came further than before, this time included, orderly
    interruptions left out; from 1."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The graph; empty where it is still to be chosen."""
    reported: tuple[int, ...] = ()
    """Epochs that were in the database when the slot was leased, rising."""
    given: GivenTrial | None = None
    """What a given trial trains; None: it is one of the budget."""

    @property
    def number(self) -> int:
        """The trial's number in the study: that of the slot; of a given trial see ``numbers``."""
        return self.slot if self.given is None else given_number(self.slot)

    @property
    def key(self) -> dict[str, int | str]:
        """What finds the row while the lease stands."""
        return {"study_id": self.study_id, "slot": self.slot, "lease": self.token}


@dataclass(frozen=True, kw_only=True)
class ActiveLease:
    """A lease of whichever worker, as the database lists it: who holds a slot, and since when nothing was heard."""

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
    """How its steps run; None before the first."""
    data: str | None
    """Where its images are; None before its first step."""
    pace: Pace | None
    """Where its training stood, and how fast it was, when the lease was last renewed; None before the first step."""


def bring_back(connection: Connection, study_id: int) -> None:
    """Let leases of the future, which a clock that was set back has left behind, end one length from now."""
    connection.execute(_BRING_BACK, {"study_id": study_id})


def renew(connection: Connection, lease: Lease, *, step: int = 0, pace: Pace | None = None) -> tuple[int, bool] | None:
    """Renew a lease, and write down the optimiser step that its trial has reached, and its pace if that is known.

    Returns:
        The attempts since the trial last came further than before, this one included; and whether the study's workers
        are asked to give their slots back. None: the lease is lost.
    """
    values = {
        **lease.key,
        "lease_s": lease.duration_s,
        "step": step,
        "epoch": pace and pace.epoch,
        "images_per_s": pace and pace.images_per_s,
    }
    row = connection.execute(_RENEW, values).one_or_none()
    return None if row is None else (row.attempts, row.draining)


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
        if state == "free":
            how = GIVEN_BACK if reason is None else CRASHED
            remember(connection, lease.study_id, [lease.slot], how=how, reason=reason)
        return True
    return connection.execute(_WAS_LEFT, {**lease.key, "state": state}).one_or_none() is not None


def holder(connection: Connection, lease: Lease) -> Owner | None:
    """Who holds the slot of a lost lease now; None: nobody does."""
    found = connection.execute(
        text("SELECT owner FROM kdhpc_slots WHERE study_id = :study_id AND slot = :slot AND state = 'held'"), lease.key
    ).scalar_one_or_none()
    return owners.from_json(found) if found else None


def active_leases(connection: Connection, study_id: int) -> tuple[ActiveLease, ...]:
    """The leases of all held slots of a study, given trials first, by slot."""
    rows = connection.execute(
        text(f"""
            SELECT slot, graph_key, number, owner, extract(epoch FROM now() - renewed) AS age, {EXPIRED} AS lost,
                CAST(value_json AS jsonb) #>> '{{run,mode}}' AS mode,
                CAST(value_json AS jsonb) #>> '{{run,data}}' AS data, epoch, images_per_s
            FROM kdhpc_slots JOIN trials USING (trial_id)
                LEFT JOIN trial_user_attributes AS notes ON notes.trial_id = trials.trial_id AND notes.key = :key
            WHERE kdhpc_slots.study_id {OF_BOTH} AND kdhpc_slots.state = 'held' ORDER BY graph_key IS NULL, slot
        """),
        {"study_id": study_id, "key": ATTRIBUTE},
    )
    return tuple(
        ActiveLease(
            slot=row.slot,
            number=row.number if row.graph_key is None else given_number(row.slot),
            owner=owners.from_json(row.owner),
            lease_age_s=float(row.age),
            lost=row.lost,
            mode=row.mode,
            data=row.data,
            pace=None if row.epoch is None else Pace(epoch=row.epoch, images_per_s=row.images_per_s),
        )
        for row in rows
    )


def free_slots_of(connection: Connection, study_id: int, dead: Iterable[Owner]) -> int:
    """Take the slots of dead owners from them; the attempts count. Returns how many."""
    freed = connection.execute(
        text(f"""
            UPDATE kdhpc_slots SET state = 'free', lease = NULL, expires = NULL,
                worked_s = worked_s + {worked("renewed")}
            WHERE study_id {OF_BOTH} AND state = 'held' AND owner_token = ANY(:tokens)
            RETURNING slot
        """),
        {"study_id": study_id, "tokens": [owner.token for owner in dead]},
    )
    numbers = list(freed.scalars())
    remember(connection, study_id, numbers, how=VANISHED)
    return len(numbers)


def remember(
    connection: Connection, study_id: int, numbers: Sequence[int], *, how: str, reason: str | None = None
) -> None:
    """Write down when, and by whom, slots were held that are free again: the next lease takes that place.

    It is the list ``leases`` of a trial's attribute: beginning and end in seconds since 1970, the owner's token, how
    the lease ended, and why; the last two are missing where an earlier version of kdhpc wrote it.

    Args:
        connection: in a transaction.
        study_id: Optuna's id of the study, or of its companion.
        numbers: the slots.
        how: ``GIVEN_BACK``, ``CRASHED``, ``VANISHED`` or ``FAILED``.
        reason: why; None: that for which the trial is failed, if it is.
    """
    if numbers:
        values = {"study_id": study_id, "slots": list(numbers), "key": ATTRIBUTE, "how": how, "reason": reason}
        connection.execute(_REMEMBER, values)
