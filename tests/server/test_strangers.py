"""Surroundings and other people: nothing of theirs reaches the embedded server's clients, and nothing of ours them."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import text

from kdhpc.errors import DatabaseError
from kdhpc.processes import has_ended
from kdhpc.server import libpq
from kdhpc.server.address import EmbeddedAddress
from kdhpc.server.control import ServerOptions, dump_path, reopen, running, start, stop
from kdhpc.server.endpoint import Endpoint, read_endpoint
from kdhpc.server.process import free_port
from kdhpc.server.proof import last_server
from kdhpc.server.record import update
from kdhpc.study.storage import Storage
from tests.server.servers import pretend_elsewhere
from tests.server.strangers import CLEAR_TEXT, HOSTILE, SCRAM, WAYS, silent_connections, stranger
from tests.server.test_ownership import fill, kill_all


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Path]:
    """The folder of a server that some tests leave running, and others not."""
    folder = fill(tmp_path_factory.mktemp("strangers") / "runs", template)
    yield folder
    kill_all(folder)


@pytest.fixture
def folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It runs."""
    monkeypatch.setenv("KDHPC_RUNS", str(shared.parent))
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    start(shared, ServerOptions())
    return shared


def password(folder: Path) -> str:
    (found,) = {line.rpartition(":")[2] for line in (folder / "passfile").read_text().splitlines()}
    return found


def endpoint_of(folder: Path) -> Endpoint:
    endpoint = read_endpoint(folder)
    assert endpoint is not None
    return endpoint


def ask(storage: Storage) -> int:
    return storage.read(lambda connection: connection.execute(text("SELECT 42")).scalar_one())


def crash(folder: Path) -> Endpoint:
    """It is still recorded as running."""
    endpoint, record = endpoint_of(folder), last_server(folder)
    os.kill(record.pid, signal.SIGQUIT)
    while not has_ended(record.pid, record.space, record.process_start):
        time.sleep(0.05)
    return endpoint


# libpq's environment.


@pytest.mark.parametrize("name", HOSTILE)
def test_clients_heed_no_variable_of_libpq(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, HOSTILE[name])
    assert running(folder) == read_endpoint(folder)
    storage = Storage.connect()
    assert ask(storage) == 42
    storage.close()
    assert os.environ[name] == HOSTILE[name]
    with contextlib.closing(os.popen(f"echo ${name}")) as shell:
        assert shell.read().strip() == HOSTILE[name], "it is there again"


def test_start_and_stop_heed_no_variable_of_libpq(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    stopped = stop(folder)
    assert (stopped.warning, stopped.dump) == (None, dump_path(folder))
    assert running(start(folder, ServerOptions(), timeout_s=30.0) and folder)


def test_database_that_the_user_gives_goes_on_heeding_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = endpoint_of(folder)
    monkeypatch.setenv("PGPASSFILE", str(folder / "passfile"))
    monkeypatch.setenv("PGAPPNAME", "mine")
    storage = Storage.connect(f"postgresql://kdhpc@127.0.0.1:{endpoint.port}/kdhpc")
    setting = text("SELECT current_setting('application_name')")
    assert storage.read(lambda connection: connection.execute(setting).scalar_one()) == "mine"
    storage.close()


def test_libpq_that_cannot_insist_on_scram_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpq.psycopg2.extensions, "libpq_version", lambda: 150004)
    with pytest.raises(DatabaseError, match=r"libpq 15 here, .*pip install 'psycopg2-binary>=2\.9\.9'"):
        running(folder)


# Whoever is on a port of ours.


@pytest.mark.parametrize("way", WAYS)
def test_stranger_on_a_crashed_servers_port_learns_nothing(folder: Path, way: str) -> None:
    endpoint, secret = crash(folder), password(folder)
    with stranger(endpoint.port, WAYS[way]) as other:
        assert running(folder) is None
        said = "cannot be reached" if way == "scram" else "another program listens there, and was told no password"
        with pytest.raises(DatabaseError, match=said):
            Storage.connect(first_contact_s=0.5)
        # What anything else would do with the URL.
        url = endpoint.url(folder).set(drivername="postgresql").render_as_string()
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(url)
        assert other.num_dialled > 2
        assert not other.knows(secret)
        again = start(folder, ServerOptions())
    assert (again.already, again.endpoint.port != endpoint.port) == (False, True)
    assert password(folder) != secret


def test_stranger_on_a_stopped_servers_port_is_not_dialled(folder: Path) -> None:
    endpoint = endpoint_of(folder)
    stop(folder, write_dump=False)
    with stranger(endpoint.port, CLEAR_TEXT) as other:
        with pytest.raises(
            DatabaseError, match=r"cannot be reached \(it was stopped\): start it with `kdhpc db start`"
        ):
            Storage.connect(first_contact_s=0.5)
        assert running(folder) is None
        assert not stop(folder).was_running
        # Its record knows, where the endpoint file could not be written.
        endpoint_file = folder / "endpoint.json"
        endpoint_file.write_text(endpoint_file.read_text().replace('"pid": null', '"pid": 4711'))
        with pytest.raises(DatabaseError, match="it was stopped"):
            Storage.connect(first_contact_s=0.5)
        start(folder, ServerOptions())
        assert other.num_dialled == 0


def test_stranger_here_is_not_taken_for_a_server_that_only_another_machine_reaches(folder: Path) -> None:
    record = last_server(folder)
    assert record is not None
    away = pretend_elsewhere(folder, node="login1")
    with stranger(free_port(None), CLEAR_TEXT) as other:
        update(folder, replace(away, port=other._socket.getsockname()[1]))
        assert running(folder) is None
        with pytest.raises(DatabaseError, match=r"it listens on 127\.0\.0\.1 of login1 only"):
            EmbeddedAddress(folder)()
        assert other.num_dialled == 0
    update(folder, record)


def test_words_of_a_stranger_are_shown_without_control_characters(folder: Path) -> None:
    endpoint = crash(folder)
    words = b"SFATAL\0C28000\0Mgo \x1b[2Jaway\x07\0\0"
    with (
        stranger(endpoint.port, b"E" + (4 + len(words)).to_bytes(4, "big") + words),
        pytest.raises(DatabaseError) as caught,
    ):
        Storage.connect(first_contact_s=0.5)
    assert str(caught.value).isprintable()
    assert "away" in str(caught.value)


def test_every_start_has_a_password_of_its_own_that_waiting_workers_pick_up(folder: Path) -> None:
    old, secret = endpoint_of(folder), password(folder)
    worker = Storage.connect()
    assert ask(worker) == 42
    stop(folder, write_dump=False)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(worker)))
    waiting.start()
    time.sleep(0.5)
    new = start(folder, ServerOptions(port=free_port(None))).endpoint
    waiting.join(60)
    assert answers == [42]
    worker.close()
    assert new.port != old.port
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host="127.0.0.1", port=new.port, user="kdhpc", dbname="kdhpc", password=secret)
    # Whoever passes on what it is told, to the server on its new port, is told nothing.
    with stranger(old.port, SCRAM) as other:
        with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
            psycopg2.connect(replace(new, port=old.port).url(folder).set(drivername="postgresql").render_as_string())
        assert not other.knows(password(folder))


@pytest.mark.parametrize("count", [320])
def test_silent_connections_do_not_lock_the_owner_out(
    folder: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(folder, write_dump=False)
    # As ever, but for the time.
    monkeypatch.setattr("kdhpc.server.control.AUTHENTICATION_S", 2.0)
    start(folder, ServerOptions())
    with silent_connections(endpoint_of(folder).port, count):
        with pytest.raises(psycopg2.OperationalError, match="too many clients"):
            psycopg2.connect(endpoint_of(folder).url(folder).set(drivername="postgresql").render_as_string())
        began = time.monotonic()
        assert running(folder)
        storage = Storage.connect()
        assert ask(storage) == 42
        assert time.monotonic() - began < 30
        storage.close()
    with silent_connections(endpoint_of(folder).port, count):
        stopped = stop(folder)
    assert (stopped.was_running, stopped.warning) == (True, None)


# Listening to more than before.


def test_server_for_this_machine_alone_is_reopened_unless_somebody_would_notice(folder: Path) -> None:
    before = endpoint_of(folder)
    storage = Storage.connect()
    storage.write(lambda connection: connection.execute(text("CREATE TABLE IF NOT EXISTS kept (value integer)")))
    assert reopen(folder, before, ServerOptions(listen="all")) is None
    assert running(folder) == before
    storage.close()
    again = reopen(folder, before, ServerOptions(listen="all"))
    assert again is not None
    # Another launcher had seen the same, and was slower.
    other = reopen(folder, before, ServerOptions(listen="all"))
    assert other is not None
    assert (other.already, other.endpoint) == (True, again.endpoint)
    assert (again.already, again.endpoint.host, again.endpoint.port) == (False, before.node, before.port)
    assert storage.read(lambda connection: connection.execute(text("SELECT count(*) FROM kept")).scalar_one()) == 0
    storage.close()
    stop(folder, write_dump=False)


def test_server_that_gets_one_of_its_addresses_takes_another_port(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else answers at the other, and could pass on what he is told."""
    stop(folder, write_dump=False)
    with socket.create_server(("127.0.0.8", 0)) as taken:
        ports = iter((taken.getsockname()[1], free_port(None)))
        # He was quicker than the look at the port.
        monkeypatch.setattr("kdhpc.server.control.free_port", lambda preferred: next(ports))
        started = start(folder, ServerOptions(listen="127.0.0.8"))
        assert started.endpoint.port != taken.getsockname()[1]
        assert running(folder) == started.endpoint
    stop(folder, write_dump=False)
