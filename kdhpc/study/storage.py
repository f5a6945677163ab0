"""The connection to PostgreSQL: one small pool, every call done again while the server is away.

A worker lives for days and a server does not: it is restarted, moves to another port, loses the network. So each call
is one short transaction, done again from its start when the connection breaks, and written so that doing it twice is
harmless (a commit whose answer was lost may have happened).
"""

import logging
import math
import random
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from kdhpc.errors import DatabaseAwayError, DatabaseError
from kdhpc.server.address import Address, find_address, open_engine
from kdhpc.server.database_errors import CROWDED_S, database_failure, is_crowded, is_passing, reason
from kdhpc.study.launch_lock import launch_lock

T = TypeVar("T")

_FIRST_DELAY_S = 0.2
_LAST_DELAY_S = 5.0
_TOLD_DELAY_S = 8 * _FIRST_DELAY_S  # Shorter absences are not worth a warning.

_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

_logger = logging.getLogger(__name__)


def never() -> bool:
    """No reason to give up early."""
    return False


class Storage:
    """A PostgreSQL server, as a study sees it.

    Safe to use from several threads; not to be carried into a forked process.
    """

    def __init__(self, address: Address, *, patience_s: float, should_stop: Callable[[], bool]) -> None:
        self.address = address
        self._patience_s = patience_s
        self._should_stop = should_stop
        self._engine = open_engine(address)
        self._failed = -math.inf

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        patience_s: float = 900.0,
        first_contact_s: float = 2.0,
        should_stop: Callable[[], bool] = never,
    ) -> "Storage":
        """Reach the server that the user means.

        Args:
            url: ``postgresql://...``; None: ``$KDHPC_STORAGE``, else the embedded server, whose address is looked up
                again for each new connection.
            patience_s: how long later calls wait for a server that is away.
            first_contact_s: how long this call waits. A command should fail at once where nothing listens; a worker
                that starts while the server is restarted can wait longer.
            should_stop: asked while waiting; once it is true, calls fail instead.

        Raises:
            DatabaseError: no server is named, the URL is not PostgreSQL's, or nothing answers.
        """
        storage = cls(find_address(url), patience_s=first_contact_s, should_stop=should_stop)
        storage.write(lambda connection: connection.execute(text("SELECT 1")))
        storage._patience_s = patience_s
        return storage

    def write(self, work: Callable[[Connection], T]) -> T:
        """Do work in one transaction, again from its start if the connection breaks.

        Raises:
            DatabaseError: the server stayed away, or refused.
        """
        return self.retried(lambda: self._transaction(work))

    def write_now(self, work: Callable[[Connection], T]) -> T | None:
        """As ``write``, but it is not done again: returns None at once if the server is away.

        Raises:
            DatabaseError: the server refused.
        """
        try:
            return self._transaction(work)
        except (SQLAlchemyError, DatabaseAwayError) as exc:
            if not is_passing(exc):
                raise DatabaseError(f"database at {self._shown}: {reason(exc)}") from exc
            self._failed = time.monotonic()
            return None

    def read(self, work: Callable[[Connection], T]) -> T:
        """As ``write``, for work that only reads: all its statements see the same moment.

        Raises:
            DatabaseError: the server stayed away, or refused.
        """

        def snapshot() -> T:
            with self._engine.begin() as connection:
                # Not by SQLAlchemy's options: those let all later transactions of the connection write, even where the
                # database's administrator has made it read-only.
                connection.execute(_SNAPSHOT)
                return work(connection)

        return self.retried(snapshot)

    def exclusively(self, work: Callable[[], T]) -> T:
        """Do work that no other launcher does at the same time. If the connection breaks, it is done again.

        Raises:
            DatabaseError: the server stayed away, or refused.
        """

        def alone() -> T:
            with launch_lock(self, self._should_stop):
                return work()

        return self.retried(alone)

    def retried(self, call: Callable[[], T]) -> T:
        """Call, again and again while the server is away.

        Raises:
            DatabaseError: it stayed away for as long as this storage waits, or it refused.
        """
        began = time.monotonic()
        deadline = began + self._patience_s
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                return call()
            except Exception as exc:
                failure = database_failure(exc)
                if failure is None:
                    raise
                if not is_passing(failure):
                    raise DatabaseError(f"database at {self._shown}: {reason(failure)}") from exc
                self._failed = time.monotonic()
                if is_crowded(reason(failure)):
                    deadline = max(deadline, began + CROWDED_S)
                left_s = deadline - self._failed
                if left_s <= 0 or self._should_stop():
                    raise DatabaseError(
                        f"database at {self._shown} cannot be reached ({reason(failure)}): {self.address.hint}"
                    ) from exc
                # Nor is one worth a warning if the error follows a moment later, as at a command's first contact.
                if delay_s == _TOLD_DELAY_S and left_s > _LAST_DELAY_S:
                    _logger.warning("database at %s is away (%s), waiting for it", self._shown, reason(failure))
            self._engine.dispose()
            self._sleep(min(left_s, delay_s * random.uniform(0.5, 1.0)))
            # After a long absence thousands of workers must not all come back in the same seconds.
            delay_s = min(2 * delay_s, max(_LAST_DELAY_S, (self._failed - began) / 10))

    @property
    def answering_for_s(self) -> float:
        """Time since a call last found the server away; infinite if none has."""
        return time.monotonic() - self._failed

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        self._engine.dispose()

    @property
    def _shown(self) -> str:
        return self.address.shown

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)

    def _sleep(self, delay_s: float) -> None:
        until = time.monotonic() + delay_s
        while (left := until - time.monotonic()) > 0 and not self._should_stop():
            time.sleep(min(left, 0.5))
