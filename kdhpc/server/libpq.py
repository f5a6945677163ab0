"""How libpq, PostgreSQL's client library, is called for the embedded server.

Whoever may bind a port of this machine may answer on it, so a client proves that it knows the password without telling
it (SCRAM), asks the server for the same proof, and speaks to nobody who wants anything else. And libpq takes what it is
not told from some forty environment variables (``PGHOSTADDR``, ``PGSSLMODE``, ``PGSERVICE``, ...), of which three have
no parameter that would go before them: while a connection to the embedded server is made, there are none.
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
    """The ``PG*`` variables of this process, taken away while any of its threads connects to the embedded server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._taken: dict[str, str] = {}

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Without them. Python's own view (``os.environ``) stays as it is; where there are none, nothing is done."""
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
    """No ``PG*`` variables while a connection is made.

    A connection to another server, which may want them, must not be made by another thread at the same time.

    Raises:
        DatabaseError: this libpq is too old to insist on a way to authenticate.
    """
    version = psycopg2.extensions.libpq_version()
    if version < _REQUIRE_AUTH_SINCE:
        raise DatabaseError(
            f"psycopg2 uses libpq {version // 10000} here, which would tell a password to whoever asks for it; kdhpc "
            "needs libpq 16 or newer: pip install 'psycopg2-binary>=2.9.9'"
        )
    return _surroundings.hidden()


def connection_string(**parameters: object) -> str:
    """All of a connection to the embedded server in libpq's own form, for its programs."""
    return str(make_dsn(**SETTINGS, **parameters))
