"""The database's errors: which of them may pass by themselves, and how they are worded for people."""

from sqlalchemy.exc import DatabaseError as DriverError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError, TimeoutError

from kdhpc.errors import DatabaseAwayError, KdhpcError

Failure = SQLAlchemyError | DatabaseAwayError

AUTHENTICATION_S = 8.0
"""How long the embedded server waits for a client that has connected to log in."""
CROWDED_S = 2 * AUTHENTICATION_S
"""How long it is worth trying a server again that has no room for another connection."""
_CROWDED = ("too many clients", "remaining connection slots")

_NOT_OURS = "authentication method requirement"
_OPTIONS_REFUSED = "unsupported startup parameter"
# What to do, by PostgreSQL's error code (SQLSTATE).
_REMEDIES = {
    "25006": "it is a standby, or default_transaction_read_only is on for it or for this role: name a database in "
    "KDHPC_STORAGE that can be written",
    "42501": "the role in KDHPC_STORAGE needs the right to make tables in its schema (GRANT CREATE ON SCHEMA), and "
    "must own the tables of kdhpc and Optuna, or be granted all rights on them",
    "3F000": "no schema of this role's search_path exists, or it may not use it: create one, or set search_path",
}


def database_failure(exc: BaseException) -> Failure | None:
    """The database's error in what was raised (Optuna wraps it); None if it is something else."""
    if isinstance(exc, KdhpcError):
        return exc if isinstance(exc, DatabaseAwayError) else None
    for candidate in (exc, exc.__cause__):
        if isinstance(candidate, (DBAPIError, TimeoutError)):
            return candidate
    return None


def is_passing(failure: Failure) -> bool:
    """Whether the same call may succeed later: the connection broke, or the server is away, full or busy."""
    if isinstance(failure, DatabaseAwayError):
        return True
    if _OPTIONS_REFUSED in str(failure):
        return False
    if isinstance(failure, DBAPIError) and failure.connection_invalidated:
        return True
    # psycopg2 has no class of its own for some connections that broke in the middle of an answer.
    return isinstance(failure, (OperationalError, InterfaceError, TimeoutError)) or type(failure) is DriverError


def is_crowded(words: str) -> bool:
    """Whether a server says that it has no room for another connection. It soon drops clients that do not log in."""
    return any(crowded in words for crowded in _CROWDED)


def reason(failure: Failure) -> str:
    """The driver's message in one line, and what to do. The SQL statement is left out, as it holds values."""
    if isinstance(failure, DatabaseAwayError):
        return str(failure)
    told = first_line(str(failure.orig) if isinstance(failure, DBAPIError) else "no connection became free")
    remedy = _REMEDIES.get(str(getattr(getattr(failure, "orig", None), "pgcode", None)))
    if _OPTIONS_REFUSED in told:
        remedy = (
            "a connection pooler such as PgBouncer takes no `options`: leave them out of KDHPC_STORAGE and PGOPTIONS"
        )
    return f"{told}: {remedy}" if remedy else told


def first_line(words: str) -> str:
    """The first line of the driver's message, without the server's address.

    Characters that cannot be printed are replaced: any program that listens on the port may have written it.
    """
    lines = [line.strip() for line in words.strip().splitlines() if line.strip()]
    said = lines[0] if lines else "no reason given"
    if said.startswith("connection to server"):
        said = said.partition(" failed: ")[2] or said
    if _NOT_OURS in said:
        said = f"{said}: another program listens there, and was told no password"
    return "".join(sign if sign.isprintable() else "?" for sign in said)[:300]
