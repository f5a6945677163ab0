"""Databases that are not kdhpc's to write: tables of other programs and versions, no rights, read-only."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from kdhpc.cli.main import main
from kdhpc.errors import DatabaseError
from kdhpc.server.postgres import find_account, installed_programs
from kdhpc.server.process import free_port
from kdhpc.study.storage import Storage
from tests.study.made import make, take


def execute(url: str, *statements: str) -> list[object]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    found: list[object] = []
    with engine.connect() as connection:
        for statement in statements:
            result = connection.execute(text(statement))
            found = list(result.scalars()) if result.returns_rows else []
    engine.dispose()
    return found


@pytest.fixture
def schema_url(storage_url: str) -> Iterator[str]:
    """A place without any tables, as good as a database of its own."""
    execute(storage_url, "DROP SCHEMA IF EXISTS shop CASCADE", "CREATE SCHEMA shop")
    yield with_options(storage_url, "-csearch_path=shop")
    execute(storage_url, "DROP SCHEMA shop CASCADE")


def with_options(url: str, options: str) -> str:
    return make_url(url).update_query_dict({"options": options}).render_as_string(hide_password=False)


def expect_refusal(url: str, match: str) -> None:
    """Making a study there fails, in one line, and leaves no table."""
    before = execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'shop' ORDER BY 1")
    storage = Storage.connect(url)
    with pytest.raises(DatabaseError, match=match) as caught:
        make(storage)
    storage.close()
    assert "\n" not in str(caught.value)
    assert execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'shop' ORDER BY 1") == before


OF_A_SHOP = r"tables of another program, .*\({}\): give kdhpc a database of its own"


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            ("CREATE TABLE alembic_version (version_num text)", "INSERT INTO alembic_version VALUES ('ae1027a6acf')"),
            OF_A_SHOP.format("alembic_version alone"),
        ),
        (
            ("CREATE TABLE studies (id integer, title text)",),
            OF_A_SHOP.format("studies has no column study_id, study_name"),
        ),
        (
            ("CREATE TABLE version_info (v text)",),
            OF_A_SHOP.format("version_info has no column library_version, schema_version, version_info_id"),
        ),
        (
            ("CREATE VIEW studies AS SELECT 1 AS study_id, 'x' AS study_name",),
            OF_A_SHOP.format("studies, and no .*trials.*"),
        ),
        (("CREATE TABLE kdhpc_slots (v text)",), "another version of kdhpc made the studies"),
    ],
)
def test_tables_of_another_program_are_named_and_left_alone(
    schema_url: str, statements: tuple[str, ...], said: str
) -> None:
    execute(schema_url, *statements)
    expect_refusal(schema_url, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "UPDATE alembic_version SET version_num = 'ae1027a6acf'",
            r"table alembic_version .* \(it says 'ae1027a6acf'\)",
        ),
        ("ALTER TABLE trials DROP COLUMN number CASCADE", r"than Optuna \d+, .*\(trials has no column number\)"),
        (
            "UPDATE version_info SET library_version = '3.6.1'",
            r"made with Optuna 3.6.1 \(schema 12\); this kdhpc needs",
        ),
        ("UPDATE version_info SET schema_version = 13", r"\(schema 13\); this kdhpc needs Optuna \d+ \(schema 12\)"),
    ],
)
def test_tables_of_another_version_of_optuna_are_refused_for_that(schema_url: str, change: str, said: str) -> None:
    storage = Storage.connect(schema_url)
    make(storage)
    storage.close()
    execute(schema_url, change)
    expect_refusal(schema_url, said)


def test_tables_that_optuna_made_are_taken(schema_url: str) -> None:
    import optuna

    optuna.create_study(study_name="theirs", storage=schema_url)
    storage = Storage.connect(schema_url)
    take(make(storage)).release()
    storage.close()
    assert optuna.get_all_study_names(schema_url) == ["theirs", "tiny"], "and are Optuna's as before"


def test_role_without_rights_is_told_which(schema_url: str, storage_url: str) -> None:
    execute(storage_url, "REVOKE CREATE ON SCHEMA shop FROM current_user")
    expect_refusal(schema_url, r"permission denied for schema shop: .*GRANT CREATE ON SCHEMA")
    execute(storage_url, "GRANT CREATE ON SCHEMA shop TO current_user")
    storage = Storage.connect(schema_url)
    make(storage)
    execute(storage_url, "REVOKE CREATE ON SCHEMA shop FROM current_user")
    take(make(storage, target=2)).release()
    execute(schema_url, "REVOKE ALL ON kdhpc_slots FROM current_user")
    with pytest.raises(DatabaseError, match=r"permission denied for table kdhpc_slots: .*granted all rights"):
        take(make(storage))
    storage.close()


def test_no_schema_is_told(storage_url: str) -> None:
    expect_refusal(with_options(storage_url, "-csearch_path=nowhere"), "no schema .*search_path")


READ_ONLY = r"in a read-only transaction: it is a standby, or default_transaction_read_only is on"


def test_read_only_database_is_told_and_may_be_read(
    schema_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only = with_options(schema_url, "-csearch_path=shop -cdefault_transaction_read_only=on")
    expect_refusal(read_only, f"CREATE TABLE {READ_ONLY}")
    storage = Storage.connect(schema_url)
    make(storage)
    storage.close()
    expect_refusal(read_only, f"INSERT {READ_ONLY}")
    monkeypatch.setenv("KDHPC_STORAGE", read_only)
    assert main(["status", "--study", "tiny"]) == 0
    assert "4 waiting" in capsys.readouterr().out
    assert main(["stop", "--study", "tiny"]) == 1
    assert "UPDATE in a read-only transaction" in capsys.readouterr().err


def test_standby_is_told(tmp_path: Path) -> None:
    with standby() as url:
        storage = Storage.connect(url, first_contact_s=60)
        with pytest.raises(DatabaseError, match=READ_ONLY):
            make(storage)
        storage.close()


@contextmanager
def standby() -> Iterator[str]:
    """A server that repeats another one's changes, and takes none itself."""
    folder, port = Path(tempfile.mkdtemp(prefix="kdhpc-standby-")), free_port(None)
    folder.chmod(0o755)
    account, data = find_account(installed_programs(), folder), folder / "data"
    data.mkdir(mode=0o700)
    account.own(data)
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    initdb = account.command("initdb", "-D", str(data), "--username=kdhpc", "--auth=trust", "--no-sync")
    subprocess.run(initdb, check=True, cwd="/", env=environment, capture_output=True)
    (data / "standby.signal").touch()
    account.own(data)
    settings = (f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
    process = subprocess.Popen(
        account.command("postgres", "-D", str(data), *(part for item in settings for part in ("-c", item))),
        cwd="/",
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                psycopg2.connect(f"postgresql://kdhpc@127.0.0.1:{port}/postgres").close()
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"postgresql://kdhpc@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder)
