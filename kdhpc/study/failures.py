"""The database's errors: which of them pass, and how they are told."""

from sqlalchemy.exc import DatabaseError as DriverError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError, TimeoutError

from kdhpc.errors import KdhpcError


def database_failure(exc: BaseException) -> SQLAlchemyError | None:
    """The database's error in what was raised (Optuna wraps it); none if it is something else."""
    if isinstance(exc, KdhpcError):
        return None
    for candidate in (exc, exc.__cause__):
        if isinstance(candidate, (DBAPIError, TimeoutError)):
            return candidate
    return None


def is_passing(failure: SQLAlchemyError) -> bool:
    """Whether the same call may succeed later: the connection broke, or the server is away, full or busy."""
    if isinstance(failure, DBAPIError) and failure.connection_invalidated:
        return True
    # psycopg2 has no class of its own for some connections that broke in the middle of an answer.
    return isinstance(failure, (OperationalError, InterfaceError, TimeoutError)) or type(failure) is DriverError


def reason(failure: SQLAlchemyError) -> str:
    """The driver's own words, in one line; never the statement, which holds values."""
    words = str(failure.orig) if isinstance(failure, DBAPIError) else "no connection became free"
    lines = [line.strip() for line in words.strip().splitlines() if line.strip()]
    return lines[0].rpartition(" failed: ")[2] if lines else type(failure).__name__
