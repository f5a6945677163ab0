"""Which PostgreSQL is meant, and how each new connection finds it."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import ConnectArgsType, DBAPIConnection, Dialect
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from kdhpc.config.paths import server_dir
from kdhpc.errors import DatabaseAwayError, DatabaseError, StorageError
from kdhpc.server.endpoint import read_endpoint
from kdhpc.server.home import checked_home
from kdhpc.server.libpq import hidden_environment
from kdhpc.server.proof import known_endpoint, refuse_copy
from kdhpc.server.transactions import TransactionCursor

DRIVER = "postgresql+psycopg2"
_DRIVERS = ("postgresql", DRIVER)


class GivenAddress:
    """A server that the user named by a URL. What the URL leaves out, libpq takes from ``PG*`` variables and files."""

    hint = "see that the server runs and that KDHPC_STORAGE is right"

    is_stopped = False

    def __init__(self, url: URL) -> None:
        self._url = url

    def __call__(self) -> URL:
        """The URL."""
        return self._url

    @property
    def shown(self) -> str:
        """Where it is, for messages."""
        return shown(self._url)

    def surroundings(self) -> AbstractContextManager[None]:
        """The context in which a connection is made: the user's environment, as it is."""
        return nullcontext()


class EmbeddedAddress:
    """The embedded server: its endpoint file says where it is now."""

    hint = "start it with `kdhpc db start`, or name another server in KDHPC_STORAGE"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: URL | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether the server was shut down on purpose, and not lost."""
        endpoint = read_endpoint(self._folder)
        return endpoint is not None and endpoint.pid is None

    @property
    def shown(self) -> str:
        """Where it was last, for messages."""
        return shown(self._last) if self._last is not None else str(self._folder)

    def surroundings(self) -> AbstractContextManager[None]:
        """The context in which a connection is made: without the user's ``PG*`` variables."""
        return hidden_environment()

    def __call__(self) -> URL:
        """The URL.

        Raises:
            DatabaseAwayError: the server was stopped. It is not tried, as another program may have its port by now.
            DatabaseError: no server was ever started; or the folder is a copy of one whose server still runs, or is
                another user's.
        """
        checked_home(self._folder)
        if self._last is None:
            refuse_copy(self._folder)
        try:
            endpoint = known_endpoint(self._folder)
        except DatabaseAwayError:
            raise
        except (DatabaseError, StorageError):
            # A shared file system can fail to show a file that is just being replaced.
            if self._last is None:
                raise
            return self._last
        if endpoint is not None and endpoint.pid is None:
            raise DatabaseAwayError("it was stopped")
        if endpoint is not None:
            self._last = endpoint.url(self._folder)
        if self._last is None:
            raise DatabaseError(
                f"there is no database in {self._folder}, where commands look that are given in this folder: go to the "
                "folder that it was started in, or name its runs folder in KDHPC_RUNS, or a server in KDHPC_STORAGE "
                "(postgresql://user@host/database); if there was none yet, a first search or `kdhpc db start` makes one"
            )
        return self._last


Address = GivenAddress | EmbeddedAddress


def find_address(url: str | None) -> Address:
    """The server that a URL names; None: the one in ``$KDHPC_STORAGE``, or the embedded one if that is not set.

    Raises:
        DatabaseError: the URL is invalid, or not one of PostgreSQL. The message does not show it: it may hold a
            password.
    """
    url = url or os.environ.get("KDHPC_STORAGE")
    if not url:
        return EmbeddedAddress(server_dir())
    allowed = "allowed are postgresql://user@host/database and postgresql+psycopg2://user@host/database"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as exc:
        raise DatabaseError(f"the storage URL (KDHPC_STORAGE) cannot be understood: {allowed}") from exc
    if parsed.drivername not in _DRIVERS:
        raise DatabaseError(f"the storage URL (KDHPC_STORAGE) is of {parsed.drivername}: {allowed}")
    return GivenAddress(parsed.set(drivername=DRIVER))


def shown(url: URL) -> str:
    """Where a server is, for messages: never a user or a password."""
    host = url.host or url.query.get("host") or url.query.get("service") or "localhost"
    return f"{host}:{url.port or 5432}/{url.database or ''}"


def engine_settings() -> dict[str, object]:
    """Settings of every SQLAlchemy engine. A worker has one connection, which its threads use in turn.

    If there were a second one for moments when two threads call at once, thousands of workers would open and close it
    whenever the server is slow, and logging in is the slowest thing that a connection pooler does.
    """
    return {
        "pool_size": 1,
        "max_overflow": 0,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
        # A server whose machine vanished is noticed within two minutes, well before a lease ends.
        "connect_args": {
            "cursor_factory": TransactionCursor,
            "connect_timeout": 10,
            "keepalives_idle": 60,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 90_000,
        },
    }


def open_engine(address: Address) -> Engine:
    """An engine that looks up the server's address for each new connection."""
    # The URL names no server, as none may run yet.
    engine = create_engine(URL.create(DRIVER), **engine_settings())
    follow(engine, address)
    return engine


def follow(engine: Engine, address: Address) -> None:
    """Make an engine look up the server's address for each new connection."""

    @event.listens_for(engine, "do_connect")
    def _where_now(
        dialect: Dialect, record: ConnectionPoolEntry, positional: ConnectArgsType, named: dict[str, object]
    ) -> DBAPIConnection | None:
        named.update(dialect.create_connect_args(address())[1])
        with address.surroundings():
            return dialect.connect(*positional, **named)
