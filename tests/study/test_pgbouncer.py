"""Behind PgBouncer in transaction mode: the server's sessions are shared, and kdhpc relies on none."""

import contextlib
from collections.abc import Iterator

import psycopg2
import pytest
from sqlalchemy import Connection, text

from kdhpc.errors import DatabaseError
from kdhpc.server import transactions
from kdhpc.server.address import find_address
from kdhpc.study import optuna_view as optuna_study
from kdhpc.study.optuna_view import ensure_study
from kdhpc.study.status import read_status, study_names, top_trials
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.databases import drop_tables
from tests.pooler import require_pgbouncer
from tests.study.made import EPOCHS, SPLIT, accuracy, definition, make, optuna_trials, scalar, states, take
from tools.benchmarks.pooler import pgbouncer

BOUNDS = text("""
    SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
        current_setting('lock_timeout'), current_setting('transaction_isolation')
""")
BOUNDED = ("1min", "1min", "0", "read committed")
# PgBouncer itself gives each client its own of the first ones; the last two begin anew with each transaction.
OWN = (
    *("application_name", "client_encoding", "DateStyle", "IntervalStyle", "standard_conforming_strings", "TimeZone"),
    *("transaction_isolation", "transaction_read_only"),
)
LEFT = f"""
    SELECT 'setting ' || name FROM pg_settings WHERE source = 'session' AND name NOT IN {OWN}
    UNION ALL SELECT 'lock ' || mode FROM pg_locks WHERE locktype = 'advisory'
    UNION ALL SELECT 'statement ' || name FROM pg_prepared_statements
    UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable
    UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relpersistence = 't'
    UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() AS channel
"""


@pytest.fixture
def pooled_url(storage_url: str) -> Iterator[str]:
    """A database without studies, through PgBouncer. The server has one session for all: no two may need each other."""
    require_pgbouncer()
    with pgbouncer(storage_url, sessions=1) as url:
        yield url


@pytest.fixture
def pooled(pooled_url: str) -> Iterator[Storage]:
    storage = Storage.connect(pooled_url)
    yield storage
    storage.close()


@contextlib.contextmanager
def another_client(url: str) -> "Iterator[psycopg2.extensions.cursor]":
    """One that shares the session with kdhpc."""
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    connection.autocommit = True
    with contextlib.closing(connection), connection.cursor() as cursor:
        yield cursor


def left_behind(url: str) -> list[str]:
    with another_client(url) as cursor:
        cursor.execute("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
        assert cursor.fetchone() == ("read committed", "off")
        cursor.execute(LEFT)
        return [row[0] for row in cursor.fetchall()]


def test_whole_study_through_pgbouncer_leaves_nothing_in_the_session(
    pooled_url: str, pooled: Storage, storage_url: str
) -> None:
    drop_tables(storage_url)
    study = make(pooled, target=14, sampler="tpe", max_attempts=1)
    for _ in range(12):  # TPE's first ten are drawn at random.
        leased = take(study)
        leased.describe(mode="eager", data="disk")
        for epoch in EPOCHS[:-1]:
            if leased.report(epoch, accuracy(leased.slot, epoch)):
                leased.prune()
                break
        else:
            leased.complete(accuracy(leased.slot, EPOCHS[-1]))
    take(study).release()
    take(study).crash("it broke")
    assert study.retry() == (12,)
    take(study).diverge(1, "nan")
    study.resize(13)
    study.drain()
    assert study.is_draining()
    study.resume()
    assert study.expire_dead() == 0
    status = read_status(pooled, "tiny")
    assert (status.trials.diverged, status.trials.finished) == (1, 13)
    assert status.best.value == top_trials(pooled, "tiny", 1)[0].value
    assert sorted(trial.number for trial in optuna_trials(storage_url)) == list(range(13))
    assert set(states(storage_url)) == {"COMPLETE", "PRUNED"}
    study.delete()
    assert study_names(pooled) == ()
    pooled.close()
    assert left_behind(pooled_url) == []


def test_every_transaction_is_bounded_whatever_others_have_set(
    pooled_url: str, pooled: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_client(pooled_url) as other:
        for setting in (
            "statement_timeout = 0",
            "idle_in_transaction_session_timeout = 0",
            "lock_timeout = 1",
            "default_transaction_isolation = 'serializable'",
        ):
            other.execute(f"SET {setting}")
        assert tuple(pooled.write(lambda c: c.execute(BOUNDS).one())) == BOUNDED
        assert tuple(pooled.read(lambda c: c.execute(BOUNDS).one())) == (*BOUNDED[:3], "repeatable read")
        ensure_study(pooled, "tiny")
        rdb = optuna_study._open(find_address(pooled_url))
        with rdb.engine.begin() as connection:
            assert tuple(connection.execute(BOUNDS).one()) == BOUNDED
        rdb.engine.dispose()
        other.execute("SHOW lock_timeout")
        assert other.fetchone() == ("1ms",), "what another client has set stays its own"
    monkeypatch.setattr(transactions, "_SETTINGS", ("SET LOCAL statement_timeout = 200",))
    impatient = Storage.connect(pooled_url, patience_s=0.1)
    with pytest.raises(DatabaseError, match="canceling statement due to statement timeout"):
        impatient.write(lambda connection: connection.execute(text("SELECT pg_sleep(60)")))
    impatient.close()


def test_options_that_pgbouncer_refuses_are_named_at_once(pooled_url: str) -> None:
    with pytest.raises(
        DatabaseError, match=r"unsupported startup parameter.*PgBouncer takes no `options`.*KDHPC_STORAGE"
    ) as caught:
        Storage.connect(f"{pooled_url}?options=-c%20search_path%3Dmine", first_contact_s=600)
    assert "\n" not in str(caught.value)


def test_session_that_is_lost_behind_pgbouncer_costs_a_repetition(pooled: Storage, storage: Storage) -> None:
    tries = []

    def work(connection: Connection) -> int:
        tries.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        if len(tries) == 1:
            kill = text("SELECT pg_terminate_backend(:pid, 10000)")
            assert storage.write(lambda direct: direct.execute(kill, {"pid": tries[0]}).scalar_one())
        return int(connection.execute(text("SELECT 41 + 1")).scalar_one())

    assert pooled.write(work) == 42
    assert len(tries) == 2


def test_workers_behind_pgbouncer_share_a_study(
    pooled_url: str, pooled: Storage, start_worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = SharedStudy.create_or_open(pooled, definition(pruner="none"), SPLIT, target=12)
    monkeypatch.setenv("KDHPC_STORAGE", pooled_url)
    for worker in [start_worker("tiny", epoch_s=0.02) for _ in range(2)]:
        worker.rest()
    assert study.progress().complete == 12
    assert scalar(pooled, "SELECT count(DISTINCT number) FROM trials") == 12
