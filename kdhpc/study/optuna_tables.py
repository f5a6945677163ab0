"""Optuna's tables: made whole, in one transaction; and told apart from tables of other programs and other versions."""

from pathlib import Path

import optuna
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.storages._rdb import models
from sqlalchemy import Connection, text

from kdhpc.errors import DatabaseError
from kdhpc.study.trial_rows import SCHEMA_VERSION

_ALEMBIC = "alembic_version"
"""Where Alembic, which Optuna uses, notes the version of the tables; and so does any other program that uses it."""
_REMEDY = "give kdhpc a database of its own (KDHPC_STORAGE)"
_OPTUNA = f"Optuna {optuna.__version__.split('.')[0]}"


def make_tables(connection: Connection) -> None:
    """Make Optuna's tables where they are missing.

    Optuna's own storage would make them, but in several transactions, two of which are open at once.

    Raises:
        DatabaseError: as :func:`check_tables`.
    """
    check_tables(connection)
    models.BaseModel.metadata.create_all(connection)
    if connection.execute(text("SELECT count(*) FROM version_info")).scalar_one() == 0:
        connection.execute(
            text(
                "INSERT INTO version_info (version_info_id, schema_version, library_version) VALUES (1, :schema, :own)"
            ),
            {"schema": SCHEMA_VERSION, "own": optuna.__version__},
        )
    context = MigrationContext.configure(connection)
    if context.get_current_revision() is None:
        script = _script()
        context.stamp(script, str(script.get_current_head()))


def check_tables(connection: Connection) -> None:
    """Refuse tables that have the names of Optuna's, but are not those that this version of Optuna makes.

    Raises:
        DatabaseError: they are another program's, or another version's of Optuna; the message says which.
    """
    expected = {
        name: {column.name for column in table.columns} for name, table in models.BaseModel.metadata.tables.items()
    }
    found = _columns(connection, [*expected, _ALEMBIC])
    if not found:
        return
    if expected["version_info"] <= found.get("version_info", set()):
        _check_version(connection)
    wrong = [
        f"{name} has no column {', '.join(sorted(columns - found[name]))}"
        for name, columns in expected.items()
        if name in found and not columns <= found[name]
    ]
    missing = sorted(expected.keys() - found.keys())
    if not wrong and missing == sorted(expected):
        wrong = [f"{_ALEMBIC} alone"]
    elif not wrong and missing:
        wrong = [f"{', '.join(sorted(found.keys() & expected.keys()))}, and no {', '.join(missing)}"]
    if wrong:
        raise DatabaseError(
            f"the database holds tables of another program, or of another version than {_OPTUNA}, by the names of "
            f"Optuna's ({'; '.join(wrong)}): {_REMEDY}"
        )
    _check_revision(connection, has_table=_ALEMBIC in found)


def _check_version(connection: Connection) -> None:
    for row in connection.execute(text("SELECT schema_version, library_version FROM version_info")):
        same_major = str(row.library_version).split(".")[0] == optuna.__version__.split(".")[0]
        if row.schema_version != SCHEMA_VERSION or not same_major:
            raise DatabaseError(
                f"the database was made with Optuna {row.library_version} (schema {row.schema_version}); this kdhpc "
                f"needs {_OPTUNA} (schema {SCHEMA_VERSION}): {_REMEDY}"
            )


def _check_revision(connection: Connection, *, has_table: bool) -> None:
    """Alembic's table is one for all programs of a schema: the note in it must be Optuna's."""
    revisions = connection.execute(text(f"SELECT version_num FROM {_ALEMBIC}")).scalars().all() if has_table else []
    known = {script.revision for script in _script().walk_revisions()} if revisions else set()
    for revision in revisions:
        if revision not in known:
            raise DatabaseError(
                f"the table {_ALEMBIC} in the database is another program's, or of another version than {_OPTUNA} (it "
                f"says {revision!r}): {_REMEDY}"
            )


def _columns(connection: Connection, tables: list[str]) -> dict[str, set[str]]:
    """The columns of those of the tables that are where new ones are made."""
    rows = connection.execute(
        text("""
            SELECT table_name, column_name FROM information_schema.columns
            WHERE table_schema = current_schema() AND table_name = ANY(:tables)
        """),
        {"tables": tables},
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(str(row.table_name), set()).add(str(row.column_name))
    return found


def _script() -> ScriptDirectory:
    return ScriptDirectory(str(Path(models.__file__).parent / "alembic"))
