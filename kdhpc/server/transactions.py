"""Transactions that bring their own settings, as they may share a database session with other clients.

Behind a pooler in transaction mode (PgBouncer) each transaction may run in another session of the server, which other
clients use before and after it. So nothing may be set for a session, and nothing that a session has been set to may be
relied upon. The first statement of each transaction is preceded by its settings, in the same message to the server:
they cost no time, and end with the transaction.
"""

from collections.abc import Iterable

from psycopg2.extensions import TRANSACTION_STATUS_IDLE, cursor

_SETTINGS = (
    # A statement that hangs, or a client that vanished, must not keep what others wait for.
    "SET LOCAL statement_timeout = 60000",
    "SET LOCAL idle_in_transaction_session_timeout = 60000",
    "SET LOCAL lock_timeout = 0",
)
_DEFAULT_ISOLATION = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
"""What the statements of this room are written for, whatever the server's default is."""


class TransactionCursor(cursor):  # type: ignore[misc]
    """A cursor of psycopg2; each engine of this room has it, Optuna's included."""

    def execute(self, query: object, vars: object = None) -> None:
        """Execute, with the transaction's settings before its first statement."""
        super().execute(self._settings() + self.mogrify(query, vars))

    def executemany(self, query: object, vars_list: Iterable[object]) -> None:
        """Execute for each of the parameters."""
        for parameters in vars_list:
            self.execute(query, parameters)

    def _settings(self) -> bytes:
        """What goes before this statement; nothing unless it is a transaction's first."""
        # psycopg2 sends BEGIN when it is asked to execute.
        if self.connection.get_transaction_status() != TRANSACTION_STATUS_IDLE:
            return b""
        settings = _SETTINGS if self.connection.autocommit else (_DEFAULT_ISOLATION, *_SETTINGS)
        return "".join(f"{setting}; " for setting in settings).encode()
