"""One launcher at a time: a row of the database, held by a lease.

Making a study and counting its workers take several transactions, with calls of Slurm between them. PostgreSQL's own
locks last for a transaction or for a session. A transaction is too short, and behind a pooler (PgBouncer in transaction
mode) sessions are shared. So whoever does such work holds a row, which a thread renews. Another launcher waits until
the row is released, its holder is known to be gone, or it has not been renewed for a while.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection, text

from kdhpc.errors import DatabaseError
from kdhpc.study import owner as owners
from kdhpc.study.owner import Owner

T = TypeVar("T")

_NAME = "launch"
_LEASE_S = 30.0
_RENEW_S = 5.0
_POLL_S = (0.05, 0.3)
_PATIENCE_S = 180.0
_TABLE_KEY = 0x6B64687063  # "kdhpc"

_TABLE = """
    CREATE TABLE IF NOT EXISTS kdhpc_locks (
        name text PRIMARY KEY,
        owner text NOT NULL,
        token text NOT NULL,
        renewed timestamptz NOT NULL
    )
"""
# If it was renewed in the future, the server's clock was set back since.
_TAKE = text("""
    INSERT INTO kdhpc_locks AS held (name, owner, token, renewed) VALUES (:name, :owner, :token, now())
    ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, token = excluded.token, renewed = now()
    WHERE held.token IN (:token, :gone)
        OR abs(extract(epoch FROM now() - held.renewed)) > :lease_s
    RETURNING token
""")
_HOLDER = text("SELECT owner FROM kdhpc_locks WHERE name = :name")
_RENEW = text("UPDATE kdhpc_locks SET renewed = now() WHERE name = :name AND token = :token")
_RELEASE = text("DELETE FROM kdhpc_locks WHERE name = :name AND token = :token")

_logger = logging.getLogger(__name__)


class Transactions(Protocol):
    """What the lock needs of the storage."""

    def write(self, work: Callable[[Connection], T]) -> T:
        """Do work in a transaction."""

    def write_now(self, work: Callable[[Connection], T]) -> T | None:
        """Do work in a transaction at once, or return None if the server is away."""


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """Another launcher holds the lock."""

    holder: Owner | None
    """Who; None if it has just released it."""


@contextmanager
def launch_lock(storage: Transactions, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock of the database's launchers.

    Args:
        storage: the server.
        should_stop: asked while waiting.

    Raises:
        DatabaseError: the database refuses; or another launcher does not come to an end, or ``should_stop`` is true
            before it does.
    """
    own = Owner.current()
    _wait_for_it(storage, own, should_stop)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(storage, own, ended), name="launch lock", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        # If the database is away, the lock stays until its lease has run out.
        storage.write_now(lambda connection: connection.execute(_RELEASE, _key(own)))


def _wait_for_it(storage: Transactions, own: Owner, should_stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    gone: Owner | None = None
    while True:
        refusal = storage.write(partial(_take, own=own, gone=gone))
        if refusal is None:
            return
        holder = refusal.holder
        if holder is not None and holder.is_gone and holder != gone:
            gone = holder
            continue
        if should_stop() or time.monotonic() > deadline:
            who = f"process {holder.pid} on {holder.host}" if holder else "another process"
            raise DatabaseError(f"{who} launches workers or makes a study just now: try again when it has done so")
        time.sleep(random.uniform(*_POLL_S))


def _take(connection: Connection, *, own: Owner, gone: Owner | None) -> _Refusal | None:
    """Take the lock if it is free; None: it is ours now."""
    if connection.execute(text("SELECT to_regclass('kdhpc_locks')")).scalar_one() is None:
        # Of two processes that make the same table at the same time, one would fail.
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_TABLE_KEY})"))
        connection.execute(text(_TABLE))
    values = {**_key(own), "owner": owners.to_json(own), "gone": gone and gone.token, "lease_s": _LEASE_S}
    if connection.execute(_TAKE, values).one_or_none() is not None:
        return None
    found = connection.execute(_HOLDER, {"name": _NAME}).scalar_one_or_none()
    return _Refusal(holder=None if found is None else owners.from_json(found))


def _renew(storage: Transactions, own: Owner, ended: threading.Event) -> None:
    """Body of the renewing thread."""
    while not ended.wait(_RENEW_S):
        try:
            storage.write_now(lambda connection: connection.execute(_RENEW, _key(own)))
        except DatabaseError as exc:
            _logger.warning("the lock of launchers could not be renewed: %s", exc)


def _key(own: Owner) -> dict[str, str]:
    return {"name": _NAME, "token": own.token}
