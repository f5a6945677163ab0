"""How libpq, PostgreSQL's client library, is called for the embedded server.

Any program of this machine may listen on the server's port while the server is away. So a client accepts SCRAM alone:
with it, the client proves that it knows the password without sending it, and asks the server for the same proof.

libpq takes what it is not told from some forty environment variables (``PGHOSTADDR``, ``PGSSLMODE``, ``PGSERVICE``,
...). Three of them have no connection parameter that overrides them. So all are hidden while a connection to the
embedded server is made.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

import psycopg2
from psycopg2.extensions import make_dsn

from kdhpc.errors import DatabaseError

SETTINGS = {
    "require_auth": "scram-sha-256",
    # The server has no certificate.
    "sslmode": "disable",
    "gssencmode": "disable",
    "channel_binding": "disable",
    "target_session_attrs": "any",
}
"""Parameters of every connection to the embedded server."""
_REQUIRE_AUTH_SINCE = 160000


class _Surroundings:
    """Hides the ``PG*`` variables of this process while any of its threads connects to the embedded server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._taken: dict[str, str] = {}

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """A context without the variables, as libpq sees it. Python's own view (``os.environ``) stays as it is."""
        with self._lock:
            if self._num_inside == 0:
                self._taken = {name: value for name, value in os.environ.items() if name.startswith("PG")}
                for name in self._taken:
                    os.unsetenv(name)
            self._num_inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_inside -= 1
                if self._num_inside == 0:
                    for name, value in self._taken.items():
                        os.putenv(name, value)


_surroundings = _Surroundings()


def hidden_environment() -> contextlib.AbstractContextManager[None]:
    """A context in which libpq sees no ``PG*`` variables.

    It holds for all threads: meanwhile, no other thread may connect to a server that the user named, as that connection
    may need them.

    Raises:
        DatabaseError: this libpq (before 16) cannot be told which way to authenticate it has to insist on.
    """
    version = psycopg2.extensions.libpq_version()
    if version < _REQUIRE_AUTH_SINCE:
        raise DatabaseError(
            f"psycopg2 uses libpq {version // 10000} here, which would tell a password to whoever asks for it; kdhpc "
            "needs libpq 16 or newer: pip install 'psycopg2-binary>=2.9.9'"
        )
    return _surroundings.hidden()


def connection_string(**parameters: object) -> str:
    """A connection string of libpq for the embedded server, for PostgreSQL's programs: `SETTINGS` and parameters."""
    return str(make_dsn(**SETTINGS, **parameters))
