import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from sqlalchemy import text

from kdhpc.errors import DatabaseError
from kdhpc.server.address import find_address, shown
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.server.endpoint import read_endpoint
from kdhpc.server.process import free_port
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import SPLIT, definition


@pytest.fixture
def outage(server_folder: Path) -> Iterator[Callable[[], None]]:
    """Stops the server; it runs again after the test."""
    yield lambda: stop(server_folder)
    start(server_folder, ServerOptions())


def ask(storage: Storage) -> int:
    return storage.write(lambda connection: connection.execute(text("SELECT 41 + 1")).scalar_one())


def test_connect_where_nothing_listens_fails_in_seconds_and_names_the_place() -> None:
    port = free_port(None)
    began = time.monotonic()
    with pytest.raises(DatabaseError) as caught:
        Storage.connect(f"postgresql://me:hunter2@127.0.0.1:{port}/mine")
    assert time.monotonic() - began < 60
    message = str(caught.value)
    assert f"127.0.0.1:{port}/mine cannot be reached (Connection refused)" in message
    assert "KDHPC_STORAGE" in message
    assert "hunter2" not in message
    assert "\n" not in message


def test_connect_without_any_server_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path))
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    with pytest.raises(DatabaseError, match=r"KDHPC_STORAGE \(postgresql://.*kdhpc db start"):
        Storage.connect()


def test_connect_to_the_embedded_server_when_it_is_down_says_how_to_start_it(
    storage: Storage, outage: Callable[[], None]
) -> None:
    outage()
    with pytest.raises(DatabaseError, match=r"cannot be reached \(it was stopped\): start it with `kdhpc db start`"):
        Storage.connect()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///kdhpc.db",
        "mysql+pymysql://me:hunter2@host/db",
        "postgresql+asyncpg://me:hunter2@host/db",
        "hunter2",
        "postgresql://me:hunter2@host:port/db",
    ],
)
def test_connect_url_of_something_else_is_refused_without_repeating_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDHPC_STORAGE", url)
    with pytest.raises(
        DatabaseError, match=r"\(KDHPC_STORAGE\).*allowed are postgresql://user@host/database"
    ) as caught:
        Storage.connect()
    assert "hunter2" not in str(caught.value)


def test_connect_kdhpc_storage_goes_before_the_embedded_server(
    storage_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path))
    for driver in ("postgresql", "postgresql+psycopg2"):
        monkeypatch.setenv("KDHPC_STORAGE", storage_url.replace("postgresql+psycopg2", driver))
        storage = Storage.connect()
        assert ask(storage) == 42
        storage.close()


def test_connect_with_a_wrong_password_shows_none(storage_url: str) -> None:
    wrong = storage_url.partition("?")[0].replace("kdhpc@", "kdhpc:hunter2@")
    with pytest.raises(DatabaseError, match="password authentication failed") as caught:
        Storage.connect(wrong)
    assert "hunter2" not in str(caught.value)


def test_shown_of_a_url_has_neither_user_nor_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(find_address("postgresql://me:hunter2@db.example/mine")()) == "db.example:5432/mine"
    assert shown(find_address("postgresql://?service=group")()) == "group:5432/"


def test_every_session_is_bounded_by_the_server(storage: Storage) -> None:
    settings = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    assert tuple(storage.write(lambda c: c.execute(text(settings)).one())) == ("1min", "1min")


def test_options_of_a_given_url_are_kept(storage_url: str) -> None:
    storage = Storage.connect(f"{storage_url}&options=-c%20application_name%3Dmine")
    settings = "SELECT current_setting('application_name'), current_setting('statement_timeout')"
    assert tuple(storage.write(lambda c: c.execute(text(settings)).one())) == ("mine", "1min")
    storage.close()


def test_write_that_is_refused_fails_at_once_in_one_line(storage: Storage) -> None:
    began = time.monotonic()
    with pytest.raises(DatabaseError, match='relation "nothing" does not exist') as caught:
        storage.write(lambda connection: connection.execute(text("INSERT INTO nothing VALUES ('secret')")))
    assert time.monotonic() - began < 60
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_read_cannot_write_and_sees_one_moment(storage: Storage) -> None:
    storage.write(lambda connection: connection.execute(text("CREATE TABLE IF NOT EXISTS moments (value integer)")))
    with pytest.raises(DatabaseError, match="read-only"):
        storage.read(lambda connection: connection.execute(text("INSERT INTO moments VALUES (1)")))
    count = text("SELECT count(*) FROM moments")
    writing = Storage.connect()

    def twice(connection: object) -> tuple[int, int]:
        first = connection.execute(count).scalar_one()
        writing.write(lambda other: other.execute(text("INSERT INTO moments VALUES (1)")))
        return first, connection.execute(count).scalar_one()

    assert storage.read(twice) == (0, 0)
    writing.close()
    assert storage.write(lambda connection: connection.execute(count).scalar_one()) == 1
    storage.write(lambda connection: connection.execute(text("DROP TABLE moments")))


def test_storage_gives_up_when_its_patience_ends_or_it_is_told_to(
    storage: Storage, outage: Callable[[], None], server_folder: Path
) -> None:
    told = threading.Event()
    stoppable = Storage.connect(should_stop=told.is_set)
    impatient = Storage.connect(patience_s=1.0)
    assert (ask(stoppable), ask(impatient)) == (42, 42)
    outage()
    began = time.monotonic()
    with pytest.raises(DatabaseError, match="it was stopped"):
        ask(impatient)
    assert 0.9 < time.monotonic() - began < 60
    assert impatient.write_now(lambda connection: 42) is None
    threading.Timer(0.5, told.set).start()
    began = time.monotonic()
    with pytest.raises(DatabaseError, match="it was stopped"):
        ask(stoppable)
    assert 0.4 < time.monotonic() - began < 60
    start(server_folder, ServerOptions())
    assert (ask(stoppable), ask(impatient)) == (42, 42)
    stoppable.close()
    impatient.close()


def test_work_under_load_survives_a_move_to_another_port_and_a_kill(
    storage: Storage, server_folder: Path, start_worker: Callable[..., object]
) -> None:
    study = SharedStudy.create_or_open(storage, definition(pruner="none"), SPLIT, target=80)
    workers = [start_worker("tiny", epoch_s=0.2) for _ in range(4)]
    while study.progress().complete < 4:
        time.sleep(0.05)

    before = read_endpoint(server_folder)
    assert before is not None
    stop(server_folder)
    time.sleep(5)
    after = start(server_folder, ServerOptions(port=free_port(None))).endpoint
    assert after.port != before.port
    moved = study.progress()
    assert moved.complete < 60, "the load was over before the move"
    while study.progress().complete < moved.complete + 8:
        time.sleep(0.05)

    os.kill(after.pid, signal.SIGKILL)
    start(server_folder, ServerOptions())
    assert study.progress().waiting > 0, "the load was over before the kill"

    for worker in workers:
        worker.rest()
    endpoint = read_endpoint(server_folder)
    assert endpoint is not None
    trials = optuna.load_study(study_name="tiny", storage=endpoint.url(server_folder).render_as_string()).trials
    assert sorted(trial.number for trial in trials) == list(range(80))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    # Rows come in no order.
    assert all(sorted(trial.intermediate_values) == [1, 2, 4] for trial in trials)
    assert all(len(trial.user_attrs["kdhpc"]["owners"]) == 1 for trial in trials), "nobody lost a trial"


def test_study_room_without_optuna_import_reads_and_leases(storage: Storage) -> None:
    SharedStudy.create_or_open(storage, definition(), SPLIT, target=2)
    code = """
import sys
from kdhpc.study.leased_trial import Owner
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.study.status import read_status
storage = Storage.connect()
leased = SharedStudy.open(storage, "tiny").lease(Owner.current(), lease_s=60, renew_s=20)
leased.report(1, 50.0)
leased.complete(50.0)
assert read_status(storage, "tiny").trials.complete == 1
heavy = {"optuna", "torch", "alembic", "hydra"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
