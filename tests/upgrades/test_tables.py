"""Tables of earlier versions, as the code of then made them, are moved up by `kdhpc db upgrade`.

``fixtures/tables/<version>.sql`` are dumps of what the commits before ea3b634 (version 3), ea3b634 (4), d3bb090 (5),
f6e9034 (6) and 7244863 (7) wrote: a study that prunes by the median and one that prunes by halving, each with trials
that are complete, pruned, failed, held and waiting.
"""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from kdhpc.cli.main import main
from kdhpc.study.slots import TABLES_VERSION
from kdhpc.study.storage import Storage
from tests.databases import drop_tables
from tests.study.made import make
from tests.upgrades.place import expire_leases, restore_database

_TABLES = Path(__file__).parent / "fixtures" / "tables"
VERSIONS = (3, 4, 5, 6, 7)
_COLUMNS = """
    SELECT concat(table_name, '.', column_name, ' ', data_type, ' ', is_nullable, ' ', column_default)
    FROM information_schema.columns WHERE table_name LIKE 'kdhpc%' AND table_name <> 'kdhpc_locks'
"""
_CONSTRAINTS = """
    SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid::regclass::text LIKE 'kdhpc%' AND conrelid::regclass::text <> 'kdhpc_locks' AND contype <> 'n'
"""
_INDEXES = "SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'kdhpc%' AND tablename <> 'kdhpc_locks'"
_TRIGGERS = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
_VERSION = "SELECT obj_description(to_regclass('kdhpc_slots'), 'pg_class')"


def asked(url: str, query: str) -> list[str]:
    engine = create_engine(url)
    with engine.begin() as connection:
        result = connection.execute(text(query))
        found = sorted(map(str, result.scalars())) if result.returns_rows else []
    engine.dispose()
    return found


def shape(url: str) -> list[list[str]]:
    """All that is said of the tables."""
    return [asked(url, query) for query in (_COLUMNS, _CONSTRAINTS, _INDEXES, _TRIGGERS, _VERSION)]


@pytest.fixture
def tables(own_url: str, request: pytest.FixtureRequest) -> str:
    """Two studies of an earlier version: ``old`` prunes by the median, ``halved`` by halving."""
    restore_database(own_url, (_TABLES / f"{request.param}.sql").read_text())
    return own_url


@pytest.mark.parametrize("tables", VERSIONS, indirect=True)
def test_upgrade_says_what_it_would_do_and_changes_nothing(tables: str, capsys: pytest.CaptureFixture[str]) -> None:
    expire_leases(tables)
    before = shape(tables)
    assert main(["db", "upgrade"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "studies: halved, old"
    assert "tables 7 to 8: a lease says which epoch" in out
    assert "Nothing was changed. `kdhpc db upgrade --yes` does this in one transaction; a dump is written first" in err
    assert shape(tables) == before


@pytest.mark.parametrize("tables", VERSIONS, indirect=True)
def test_other_commands_name_the_upgrade(tables: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--study", "old"]) == 1
    _, err = capsys.readouterr()
    assert "an older kdhpc made the studies in this database (kdhpc tables" in err
    assert "`kdhpc db upgrade`" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("tables", VERSIONS, indirect=True)
def test_upgrade_makes_the_tables_of_a_new_database_and_the_studies_go_on(
    tables: str, server_folder: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    version = request.node.callspec.params["tables"]
    if version == 3:  # As where two workers took slots at once.
        asked(tables, "UPDATE trials SET number = 1 - number WHERE number < 2")
    expire_leases(tables)
    assert main(["db", "upgrade", "--yes"]) == 0
    dump = server_folder / f"kdhpc-tables{version}.dump"
    assert f"dump: {dump}" in capsys.readouterr().err
    assert dump.read_bytes()[:5] == b"PGDMP"
    dump.unlink()
    found = shape(tables)

    storage = Storage.connect()
    for name, pruner, complete in (("old", "median", 3), ("halved", "asha", 2)):
        study = make(storage, name=name, target=7, pruner=pruner, max_attempts=1)
        counts = study.progress()
        assert (counts.complete, counts.pruned, counts.failed, counts.waiting) == (complete, 4 - complete, 1, 2)
    numbers = "SELECT slot - number FROM kdhpc_slots JOIN trials USING (trial_id)"
    assert set(asked(tables, numbers)) == {"0"}
    # Of the trials that are not failed, before the last epoch: the trial that was held as well.
    assert asked(tables, "SELECT count(*) FROM kdhpc_reports WHERE epoch = 1") == ["10"]
    assert asked(tables, "SELECT count(*) FROM kdhpc_reports WHERE epoch = 4") == ["0"]
    storage.close()

    drop_tables(tables)
    storage = Storage.connect()
    make(storage)
    storage.close()
    assert found == shape(tables)
    assert main(["db", "upgrade"]) == 0
    assert capsys.readouterr().out.endswith("nothing to do\n")


@pytest.mark.parametrize("tables", VERSIONS[-1:], indirect=True)
def test_upgrade_of_a_server_that_is_not_embedded_asks_for_a_dump(
    tables: str, server_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDHPC_STORAGE", tables)
    expire_leases(tables)
    assert main(["db", "upgrade"]) == 0
    assert 'make a dump first (pg_dump "$KDHPC_STORAGE")' in capsys.readouterr().err
    assert main(["db", "upgrade", "--yes"]) == 0
    assert capsys.readouterr().err == f"the tables are {TABLES_VERSION} now\n"
    assert list(server_folder.glob("kdhpc-tables*.dump")) == []


@pytest.mark.parametrize("tables", VERSIONS[:1], indirect=True)
def test_upgrade_is_refused_while_workers_hold_trials(tables: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked(tables, "UPDATE kdhpc_slots SET renewed = now(), expires = now() + interval '1 day' WHERE state = 'held'")
    before = shape(tables)
    assert main(["db", "upgrade"]) == 0
    assert "Workers hold 2 trials: stop them before that." in capsys.readouterr().err
    assert main(["db", "upgrade", "--yes"]) == 1
    assert "workers hold 2 trials; stop them" in capsys.readouterr().err
    assert shape(tables) == before


@pytest.mark.parametrize("tables", VERSIONS[:1], indirect=True)
def test_upgrade_that_fails_half_way_changes_nothing(tables: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked(tables, "ALTER TABLE kdhpc_studies ADD COLUMN precision text")  # Nobody's doing, for the last step to fail.
    expire_leases(tables)
    before = shape(tables)
    assert main(["db", "upgrade", "--yes"]) == 1
    assert "precision" in capsys.readouterr().err
    assert shape(tables) == before


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("kdhpc tables 99", "a newer kdhpc made the studies in this database (kdhpc tables 99, this one needs"),
        ("kdhpc tables 2", "another version of kdhpc made the studies in this database (kdhpc tables 2, this one"),
        ("mine", "another version of kdhpc made the studies in this database (mine, this one needs"),
    ],
)
@pytest.mark.parametrize("command", [("db", "upgrade"), ("db", "upgrade", "--yes"), ("status", "--study", "tiny")])
def test_tables_that_cannot_be_moved_up_are_one_line(
    own_url: str, capsys: pytest.CaptureFixture[str], version: str, said: str, command: tuple[str, ...]
) -> None:
    storage = Storage.connect()
    make(storage)
    storage.close()
    asked(own_url, f"COMMENT ON TABLE kdhpc_slots IS '{version}'")
    assert main(list(command)) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_upgrade_of_an_empty_database_has_nothing_to_do(own_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "upgrade", "--yes"]) == 0
    assert capsys.readouterr().out == "the database has no studies\n"
