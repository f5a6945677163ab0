"""The database's errors: which of them pass, and how they are told."""

from sqlalchemy.exc import DatabaseError as DriverError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError, TimeoutError

from kdhpc.errors import DatabaseAwayError, KdhpcError

Failure = SQLAlchemyError | DatabaseAwayError

AUTHENTICATION_S = 8.0
"""So long, the embedded server waits for those who connect and say nothing."""
CROWDED_S = 2 * AUTHENTICATION_S
"""So long it is worth to ask a server again that has no room for another connection."""
_CROWDED = ("too many clients", "remaining connection slots")


def database_failure(exc: BaseException) -> Failure | None:
    """The database's error in what was raised (Optuna wraps it); none if it is something else."""
    if isinstance(exc, KdhpcError):
        return exc if isinstance(exc, DatabaseAwayError) else None
    for candidate in (exc, exc.__cause__):
        if isinstance(candidate, (DBAPIError, TimeoutError)):
            return candidate
    return None


def is_passing(failure: Failure) -> bool:
    """Whether the same call may succeed later: the connection broke, or the server is away, full or busy."""
    if isinstance(failure, DatabaseAwayError) or (isinstance(failure, DBAPIError) and failure.connection_invalidated):
        return True
    # psycopg2 has no class of its own for some connections that broke in the middle of an answer.
    return isinstance(failure, (OperationalError, InterfaceError, TimeoutError)) or type(failure) is DriverError


def is_crowded(words: str) -> bool:
    """Whether a server says that it has no room for another connection: those that say nothing are soon sent away."""
    return any(crowded in words for crowded in _CROWDED)


def reason(failure: Failure) -> str:
    """The driver's own words, in one line; never the statement, which holds values."""
    if isinstance(failure, DatabaseAwayError):
        return str(failure)
    return first_line(str(failure.orig) if isinstance(failure, DBAPIError) else "no connection became free")


def first_line(words: str) -> str:
    """What the driver says first, without where it said it; a stranger on a server's port may have written it."""
    lines = [line.strip() for line in words.strip().splitlines() if line.strip()]
    said = lines[0].rpartition(" failed: ")[2] if lines else "no reason given"
    return "".join(sign if sign.isprintable() else "?" for sign in said)[:300]
