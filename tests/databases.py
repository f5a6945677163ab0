"""Emptying the test server's database."""

from sqlalchemy import create_engine, text

_ALONE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
)
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
# Rows that refer to others go first.
_ORDER = ("kdhpc_locks", "kdhpc_report", "kdhpc_slots", "kdhpc_studies", "trial_", "trials", "study_", "studies")


def delete_order(url: str) -> list[str]:
    """All tables that hold something of a study, those that refer to others first."""
    tables = _run(url, _TABLES)
    return [table for start in _ORDER for table in tables if table.startswith(start)]


def delete_rows(url: str) -> None:
    """Leave the tables, as a database that was used before has them (quicker than making them)."""
    _run(url, _ALONE)
    _run(url, *(f"DELETE FROM {table}" for table in delete_order(url)))


def drop_tables(url: str) -> None:
    """Leave nothing, as in a new database."""
    _run(url, _ALONE, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


def _run(url: str, *statements: str) -> list[str]:
    """Do it all in one transaction; the first column of the last answer."""
    engine = create_engine(url)
    found: list[str] = []
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(text(statement))
            found = list(result.scalars()) if result.returns_rows else []
    engine.dispose()
    return found
